"""The fronts of a search, one per resolution, and the members chosen of them: `front.json`."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from nasvid.evaluation import Evaluation
from nasvid.host.files import write_json
from nasvid.search.driver import SearchResult
from nasvid.search.goals import Goals
from nasvid.search.pareto import choose, hypervolume, nondominated


def fronts(result: SearchResult) -> dict[int, list[Evaluation]]:
    """Return the Pareto front at each resolution, ascending in cost.

    The objectives are the search's own at that resolution: with `loss` and `macs`, the front at 64
    is that of `loss@64` and `macs@64`. Only evaluations that satisfy all constraints take part.
    """
    return {
        side: _front(result.feasible, result.goals.at(side)) for side in sorted(result.goals.shapes)
    }


def _front(evaluations: Sequence[Evaluation], goals: Goals) -> list[Evaluation]:
    if not evaluations:
        return []
    points = np.stack([goals.values(evaluation.metrics) for evaluation in evaluations])
    return _by_cost([evaluations[i] for i in nondominated(points)], goals)


def _by_cost(evaluations: Sequence[Evaluation], goals: Goals) -> list[Evaluation]:
    costs = goals.costs([evaluation.arch for evaluation in evaluations])
    order = sorted(range(len(evaluations)), key=lambda i: (costs[i], evaluations[i].arch.id))
    return [evaluations[i] for i in order]


def front_hypervolume(evaluations: Sequence[Evaluation], goals: Goals) -> float | None:
    """Return the share, in [0, 1], of what could be dominated that these evaluations do dominate.

    The box reaches from 0 to the worst there is: a loss of 1, worse than predicting the mean,
    and the largest network's cost. Objectives without such a value do not count; None when none
    has one. It does not depend on the search's order, nor on what it has found.
    """
    reference = goals.reference()
    known = np.isfinite(reference)
    if not known.any():
        return None
    points = np.array([goals.values(evaluation.metrics) for evaluation in evaluations])
    points = points.reshape(len(evaluations), len(reference))
    return hypervolume(points[:, known], reference[known])


def members(found: dict[int, list[Evaluation]], goals: Goals, n: int) -> list[Evaluation]:
    """Return n evaluations of the fronts, ends included, spread evenly over the cost, ascending."""
    union = {evaluation.arch: evaluation for front in found.values() for evaluation in front}
    evaluations = _by_cost(list(union.values()), goals)
    costs = goals.costs([evaluation.arch for evaluation in evaluations])
    return [evaluations[i] for i in choose(costs, n)]


def write_front(path: Path, result: SearchResult, subnets: int) -> None:
    """Write `front.json`: hypervolumes, fronts by id, and `subnets` chosen members in full."""
    found = fronts(result)
    ids = {
        side: [evaluation.arch.id for evaluation in evaluations]
        for side, evaluations in found.items()
    }
    write_json(
        path,
        {
            "hypervolume": {
                str(side): front_hypervolume(evaluations, result.goals.at(side))
                for side, evaluations in found.items()
            },
            "fronts": {str(side): names for side, names in ids.items()},
            "members": [
                {
                    "id": evaluation.arch.id,
                    "arch": dict(evaluation.arch),
                    "metrics": evaluation.metrics,
                    "resolutions": [side for side in found if evaluation.arch.id in ids[side]],
                }
                for evaluation in members(found, result.goals, subnets)
            ],
        },
    )
