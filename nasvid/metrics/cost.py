"""The costs of an architecture that are known without running it."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path

import numpy as np

from nasvid.architecture import Architecture
from nasvid.evaluator import Evaluator, KnownCost, Metric, Metrics
from nasvid.host.reading import sha256
from nasvid.latency.table import Lookup, open_table
from nasvid.plugins.config import Config, RecipePath
from nasvid.shapes import Resolution, VideoShape
from nasvid.space import SearchSpace

COSTS = (
    Metric("params", "parameters", per_resolution=False, known=True),
    Metric("macs", "multiply-accumulates", known=True),
)
"""The metrics that every space can compute without running anything."""
TABLED = (
    Metric("latency_ms", "ms", known=True),
    Metric("peak_memory", "bytes", known=True),
)
"""The metrics that a latency table adds."""


class CostConfig(Config):
    """Options of cost."""

    latency_table: RecipePath | None = None
    """A file of `nasvid latency build`; with it, `latency_ms` and `peak_memory` are costs, too."""


class Cost(Evaluator[CostConfig]):
    """Parameters, and multiply-accumulates of one forward pass on one clip; runs nothing.

    With a latency table of a device, also the time of a forward pass there, `latency_ms`, and the
    most memory in use meanwhile, `peak_memory`, weights included.
    """

    @classmethod
    def declare(cls, config: CostConfig) -> tuple[Metric, ...]:
        """Return the costs, with those of the table if there is one."""
        return COSTS if config.latency_table is None else COSTS + TABLED

    @classmethod
    def known(
        cls, config: CostConfig, space: SearchSpace, shapes: Mapping[Resolution, VideoShape]
    ) -> dict[str, KnownCost]:
        """Return all of its metrics.

        Raises:
            UserError: the latency table does not exist, or is of another space or other shapes.
        """
        if config.latency_table is None:
            return space_costs(space, shapes)
        table = open_table(Path(config.latency_table), space, shapes)
        return space_costs(space, shapes) | _table_costs(table, shapes)

    @classmethod
    def depends_on(cls, config: CostConfig) -> dict[str, str]:
        """Return the latency table's checksum."""
        if config.latency_table is None or not Path(config.latency_table).is_file():
            return {}
        return {"table": sha256(Path(config.latency_table))}

    def evaluate(self, architectures: Sequence[Architecture]) -> list[Metrics]:
        """Return `params`, `macs`, `macs@R`, and what the table says."""
        space = self.context.supernet.space
        known = self.known(self.config, space, self.context.shapes)
        genomes = np.stack([space.encode(arch) for arch in architectures])
        columns = {key: cost.of(genomes) for key, cost in known.items()}
        return [
            {key: float(column[row]) for key, column in columns.items()}
            for row in range(len(architectures))
        ]


def space_costs(
    space: SearchSpace, shapes: Mapping[Resolution, VideoShape]
) -> dict[str, KnownCost]:
    """Return the costs that every space has: `params`, `macs` and `macs@R`."""
    ends = np.stack([space.encode(space.smallest), space.encode(space.largest)])

    def params(genomes: np.ndarray) -> np.ndarray:
        return space.costs(genomes, next(iter(shapes.values()))).params.astype(np.float64)

    def macs(resolution: Resolution, genomes: np.ndarray) -> np.ndarray:
        return space.costs(genomes, shapes[resolution]).macs.astype(np.float64)

    def between(of: Callable[[np.ndarray], np.ndarray]) -> KnownCost:
        return KnownCost(of, lambda: (float(of(ends)[0]), float(of(ends)[1])))

    by_resolution = {resolution: between(partial(macs, resolution)) for resolution in shapes}
    return {"params": between(params)} | _over("macs", by_resolution)


def _table_costs(table: Lookup, shapes: Mapping[Resolution, VideoShape]) -> dict[str, KnownCost]:
    """Return `latency_ms`, `peak_memory`, and both at every resolution."""
    milliseconds = {
        resolution: KnownCost(
            partial(table.milliseconds, resolution=resolution),
            partial(table.bounds_of_milliseconds, resolution),
        )
        for resolution in shapes
    }
    memory = {
        resolution: KnownCost(
            partial(table.peak_memory, resolution=resolution),
            partial(table.bounds_of_memory, resolution),
        )
        for resolution in shapes
    }
    return _over("latency_ms", milliseconds) | _over("peak_memory", memory)


def _over(name: str, by_resolution: Mapping[Resolution, KnownCost]) -> dict[str, KnownCost]:
    """Return a cost's mean over the resolutions, and its value at each of them."""
    costs = list(by_resolution.values())

    def mean(genomes: np.ndarray) -> np.ndarray:
        return np.mean([cost.of(genomes) for cost in costs], axis=0)

    def bounds() -> tuple[float, float]:
        least, most = np.mean([cost.bounds() for cost in costs], axis=0)
        return float(least), float(most)

    return {name: KnownCost(mean, bounds)} | {f"{name}@{s}": c for s, c in by_resolution.items()}
