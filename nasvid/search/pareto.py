"""Pareto fronts of points to be minimised: membership, hypervolume, and choosing from one."""

from __future__ import annotations

import moocore
import numpy as np


def nondominated(points: np.ndarray) -> np.ndarray:
    """Return the indices of the points that no other dominates, ascending.

    points: float `(n, objectives)`, finite, each column to be minimised. Equal points are all on
    the front or all off it, so their order does not matter.
    """
    if len(points) == 0:
        return np.zeros(0, dtype=np.int64)
    return np.flatnonzero(moocore.is_nondominated(points, keep_weakly=True))


def hypervolume(points: np.ndarray, reference: np.ndarray) -> float:
    """Return the fraction of the box from 0 to `reference` that the points dominate, in [0, 1].

    points: float `(n, objectives)`, not negative. Points outside the box are ignored.
    reference: float `(objectives,)`, positive.
    """
    if len(points) == 0:
        return 0.0
    return float(moocore.hypervolume(points / reference, ref=np.ones(len(reference))))


def choose(costs: np.ndarray, n: int) -> list[int]:
    """Return the indices of n costs spread evenly between the ends, ascending in cost.

    Both ends are included; between them, the nearest cost not yet taken is chosen for each of n - 2
    evenly spaced targets. All of them if there are no more than n; the smallest if n is 1, none if
    it is 0.
    """
    order = np.argsort(costs, kind="stable")
    if len(order) <= n:
        return [int(i) for i in order]
    if n < 2:
        return [int(i) for i in order[:n]]
    taken = [int(order[0]), int(order[-1])]
    free = [int(i) for i in order[1:-1]]
    for target in np.linspace(costs[order[0]], costs[order[-1]], n)[1:-1]:
        nearest = min(free, key=lambda i: abs(costs[i] - target))
        free.remove(nearest)
        taken.append(nearest)
    return sorted(taken, key=lambda i: (costs[i], i))
