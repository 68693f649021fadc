"""The costs of an architecture that are known without running it: parameters and MACs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from nasvid.architecture import Architecture
from nasvid.evaluator import Evaluator, Metric, Metrics
from nasvid.shapes import VideoShape
from nasvid.space import SearchSpace

COSTS = (
    Metric("params", "parameters", per_resolution=False),
    Metric("macs", "multiply-accumulates"),
)
"""The metrics that a space can compute without running anything."""


def cost_values(
    space: SearchSpace, genomes: np.ndarray, shapes: Mapping[int, VideoShape], key: str
) -> np.ndarray:
    """Return one cost (`params`, `macs`, `macs@64`) of n genomes: float64, shape `(n,)`.

    `macs` is the mean over the resolutions of `shapes`.
    """
    name, _, side = key.partition("@")
    if name == "params":
        return space.costs(genomes, next(iter(shapes.values()))).params.astype(np.float64)
    sides = [int(side)] if side else list(shapes)
    return np.mean([space.costs(genomes, shapes[s])[name] for s in sides], axis=0)


class Cost(Evaluator):
    """Parameters, and multiply-accumulates of one forward pass on one clip; runs nothing."""

    metrics = COSTS

    def evaluate(self, architectures: Sequence[Architecture]) -> list[Metrics]:
        """Return `params`, `macs` and `macs@R`."""
        space, shapes = self.context.supernet.space, self.context.shapes
        genomes = np.stack([space.encode(arch) for arch in architectures])
        keys = [key for metric in COSTS for key in metric.keys(shapes)]
        columns = {key: cost_values(space, genomes, shapes, key) for key in keys}
        return [
            {key: float(column[row]) for key, column in columns.items()}
            for row in range(len(architectures))
        ]
