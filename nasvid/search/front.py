"""The fronts of a search, one per resolution, and the members chosen of them: `front.json`."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from nasvid.host.files import write_json
from nasvid.search.driver import SearchResult
from nasvid.search.goals import Goals
from nasvid.search.pareto import choose, hypervolume, nondominated
from nasvid.search.record import Record


def fronts(result: SearchResult) -> dict[int, list[Record]]:
    """Return the Pareto front at each resolution, ascending in cost.

    The objectives are the search's own at that resolution: with `loss` and `macs`, the front at 64
    is that of `loss@64` and `macs@64`. Only records that satisfy all constraints take part.
    """
    return {
        side: _front(result.feasible, result.goals.at(side)) for side in sorted(result.goals.shapes)
    }


def _front(records: Sequence[Record], goals: Goals) -> list[Record]:
    if not records:
        return []
    points = np.stack([goals.values(record.metrics) for record in records])
    return _by_cost([records[i] for i in nondominated(points)], goals)


def _by_cost(records: Sequence[Record], goals: Goals) -> list[Record]:
    costs = goals.costs([record.arch for record in records])
    order = sorted(range(len(records)), key=lambda i: (costs[i], records[i].arch.id))
    return [records[i] for i in order]


def front_hypervolume(records: Sequence[Record], goals: Goals) -> float | None:
    """Return the share, in [0, 1], of what could be dominated that these records do dominate.

    The box reaches from 0 to the worst there is: a loss of 1, worse than predicting the mean,
    and the largest network's cost. Objectives without such a value do not count; None when none
    has one. It does not depend on the search's order, nor on what it has found.
    """
    reference = goals.reference()
    known = np.isfinite(reference)
    if not known.any():
        return None
    points = np.array([goals.values(record.metrics) for record in records])
    points = points.reshape(len(records), len(reference))
    return hypervolume(points[:, known], reference[known])


def members(found: dict[int, list[Record]], goals: Goals, n: int) -> list[Record]:
    """Return n records of the fronts, ends included, spread evenly over the cost, ascending."""
    union = {record.arch: record for front in found.values() for record in front}
    records = _by_cost(list(union.values()), goals)
    costs = goals.costs([record.arch for record in records])
    return [records[i] for i in choose(costs, n)]


def write_front(path: Path, result: SearchResult, subnets: int) -> None:
    """Write `front.json`: hypervolumes, fronts by id, and `subnets` chosen members in full."""
    found = fronts(result)
    ids = {side: [record.arch.id for record in records] for side, records in found.items()}
    write_json(
        path,
        {
            "hypervolume": {
                str(side): front_hypervolume(records, result.goals.at(side))
                for side, records in found.items()
            },
            "fronts": {str(side): names for side, names in ids.items()},
            "members": [
                {
                    "id": record.arch.id,
                    "arch": dict(record.arch),
                    "metrics": record.metrics,
                    "resolutions": [side for side in found if record.arch.id in ids[side]],
                }
                for record in members(found, result.goals, subnets)
            ],
        },
    )
