"""The architectures that are worth training further before the final choice."""

from __future__ import annotations

import numpy as np

from nasvid.evaluation import Evaluation
from nasvid.search.driver import SearchResult
from nasvid.search.front import fronts, members
from nasvid.search.goals import Goals
from nasvid.search.pareto import nondominated


def candidates(result: SearchResult, subnets: int, top: int) -> list[Evaluation]:
    """Return the best evaluations at each place of the front, ascending in place, best first.

    subnets: number of places, each a chosen member of the front and what costs less than it, but
    more than the one before; the last has no upper limit but the constraints. top: evaluations for
    each place, by the objectives that are not costs.
    """
    goals, feasible = result.goals, result.feasible
    chosen = members(fronts(result), goals, subnets)
    limits = goals.costs([each.arch for each in chosen[:-1]])
    place = np.searchsorted(limits, goals.costs([each.arch for each in feasible]))
    found = []
    for number in range(len(chosen)):
        here = [each for each, at in zip(feasible, place, strict=True) if at == number]
        found += _best_first(here, goals)[:top]
    return found


def _best_first(evaluations: list[Evaluation], goals: Goals) -> list[Evaluation]:
    """Sort by front after front of the objectives that are not costs, then by their values."""
    quality = [i for i, name in enumerate(goals.objectives) if name not in goals.known]
    if not evaluations:
        return []
    values = np.stack([goals.values(each.metrics)[quality] for each in evaluations])
    left, order = np.arange(len(evaluations)), []
    while len(left):
        front = left[nondominated(values[left])]
        order += sorted(front, key=lambda i: (*values[i], evaluations[i].arch.id))
        left = np.setdiff1d(left, front)
    return [evaluations[i] for i in order]
