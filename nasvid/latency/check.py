"""The error of a table on architectures that it was not built from."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from scipy.stats import kendalltau

from nasvid.errors import UserError
from nasvid.latency.table import Lookup
from nasvid.latency.timing import Bench, median_totals, timed
from nasvid.shapes import Resolution

ROUNDS = 5
"""Rounds in which every architecture is timed."""
TRIES = 50
"""Random draws for each architecture, before a space counts as too small."""


@dataclass(frozen=True, slots=True)
class Error:
    """The relative error of predicted milliseconds.

    median, most, worst: half, 90% and all of the architectures have at most this, regardless of
    sign. bias: the median with its sign, positive if predictions are too high. tau: Kendall's, of
    predicted against measured; None if all of one of them are equal.
    """

    median: float
    most: float
    worst: float
    bias: float
    tau: float | None

    @classmethod
    def of(cls, predicted: np.ndarray, measured: np.ndarray) -> Error:
        """Compare predictions with measurements, each float64 of shape `(n,)`."""
        errors = predicted / measured - 1
        sizes = np.abs(errors)
        tau = float(np.asarray(kendalltau(predicted, measured))[0])
        return cls(
            median=float(np.median(sizes)),
            most=float(np.quantile(sizes, 0.9)),
            worst=float(sizes.max()),
            bias=float(np.median(errors)),
            tau=None if np.isnan(tau) else tau,
        )


@dataclass(frozen=True, slots=True)
class Checked:
    """What was measured at one resolution: milliseconds of each architecture.

    predicted: by the table. macs: proportional to multiply-accumulates, fitted to the same
    measurements.
    """

    measured: np.ndarray
    predicted: np.ndarray
    macs: np.ndarray

    @property
    def errors(self) -> dict[str, Error]:
        """The errors of the table, of the table without its bias, and of MACs."""
        without = self.predicted / np.median(self.predicted / self.measured)
        return {
            "table": Error.of(self.predicted, self.measured),
            "table without its bias": Error.of(without, self.measured),
            "MACs": Error.of(self.macs, self.measured),
        }

    def to_json(self) -> dict[str, Any]:
        """Return plain values."""
        return {
            "measured_ms": self.measured.tolist(),
            "predicted_ms": self.predicted.tolist(),
            "errors": {name: asdict(error) for name, error in self.errors.items()},
        }


def check(
    bench: Bench,
    lookup: Lookup,
    genomes: np.ndarray,
    *,
    rounds: int = ROUNDS,
    on_visit: Callable[[], object] = lambda: None,
) -> dict[Resolution, Checked]:
    """Time architectures from end to end; return resolution -> what was measured and predicted."""
    parts = lookup.table.parts
    modules = tuple(dict.fromkeys(part.name.partition("#")[0] for part in parts))
    times = timed(bench, list(genomes), modules, rounds, on_visit)
    found = {}
    for resolution, shape in bench.shapes.items():
        measured = median_totals(times[resolution])
        macs = bench.supernet.space.costs(genomes, shape).macs.astype(np.float64)
        fit = float(np.median(measured / macs))
        found[resolution] = Checked(measured, lookup.milliseconds(genomes, resolution), fit * macs)
    return found


def unseen(bench: Bench, lookup: Lookup, n: int, rng: np.random.Generator) -> np.ndarray:
    """Return n distinct genomes that the table was not built from, spread over the cost.

    Raises:
        UserError: the space has fewer.
    """
    space = bench.supernet.space
    known, chosen = set(lookup.table.timed), {}
    for _ in range(TRIES * n):
        path = space.random_path(rng)
        genome = path[rng.integers(len(path))]
        if (id_ := space.decode(genome).id) not in known:
            chosen[id_] = genome
        if len(chosen) == n:
            return np.stack(list(chosen.values()))
    raise UserError(
        f"Only {len(chosen)} architectures were found that the table was not built from; use "
        f"--n {max(len(chosen), 2)}"
    )
