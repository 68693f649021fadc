"""The fronts of a search, one per resolution, and the members chosen from them: `front.json`."""

from __future__ import annotations

import errno
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from nasvid.architecture import Architecture
from nasvid.errors import Damaged
from nasvid.evaluation import Evaluation
from nasvid.host.files import write_json
from nasvid.host.reading import as_number, as_object, read_json
from nasvid.search.driver import SearchResult
from nasvid.search.goals import Goals
from nasvid.search.pareto import choose, hypervolume, nondominated
from nasvid.shapes import Resolution


def fronts(result: SearchResult) -> dict[Resolution, list[Evaluation]]:
    """Return the Pareto front at each resolution, ascending in cost.

    The objectives are the search's at that resolution: for `loss` and `macs`, the front at 64 is
    over `loss@64` and `macs@64`. Only evaluations that satisfy all constraints count.
    """
    return {
        resolution: _front(result.feasible, result.goals.at(resolution))
        for resolution in sorted(result.goals.shapes)
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
    """Return the fraction, in [0, 1], of the objective box that these evaluations dominate.

    The box extends from the ideal to the reference of a useless model: from 0 to a loss of 1, and
    to the largest architecture's cost; for a metric to maximise, from its ideal down to its
    reference. Objectives without a reference are ignored; None if none has one. The box does not
    depend on the search's results or their order.
    """
    reference, ideal = goals.reference(), goals.ideal()
    known = np.isfinite(reference)
    if not known.any():
        return None
    points = np.array([goals.values(evaluation.metrics) for evaluation in evaluations])
    points = points.reshape(len(evaluations), len(reference))
    shares = np.maximum(points - ideal, 0)
    return hypervolume(shares[:, known], (reference - ideal)[known])


def members(found: dict[Resolution, list[Evaluation]], goals: Goals, n: int) -> list[Evaluation]:
    """Return n evaluations of the fronts, ends included, spread evenly over the cost, ascending."""
    union = {evaluation.arch: evaluation for front in found.values() for evaluation in front}
    evaluations = _by_cost(list(union.values()), goals)
    costs = goals.costs([evaluation.arch for evaluation in evaluations])
    return [evaluations[i] for i in choose(costs, n)]


@dataclass(frozen=True, slots=True)
class Member:
    """An architecture chosen from the fronts, and the resolutions on whose front it is."""

    evaluation: Evaluation
    resolutions: tuple[Resolution, ...]


@dataclass(frozen=True, slots=True)
class Front:
    """The content of `front.json`.

    hypervolume: of each resolution's front; None if no objective has a reference.
    fronts: the ids of the architectures on each resolution's front, ascending in cost.
    members: the chosen architectures, ascending in cost.
    """

    hypervolume: Mapping[Resolution, float | None]
    fronts: Mapping[Resolution, tuple[str, ...]]
    members: tuple[Member, ...]


def read_front(path: Path) -> Front:
    """Read what `write_front` wrote.

    Raises:
        Damaged: the file is something else. FileNotFoundError: there is none.
    """
    try:
        front = read_json(path, front_of)
    except Damaged as damaged:
        raise Damaged(path, damaged.reason, "search again to have it made again") from damaged
    if front is None:
        raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), str(path))
    return front


def front_of(front: Any) -> Front:
    """Return the front that `front.json` holds, from its plain values."""
    return Front(
        hypervolume={
            Resolution.parse(key): _number(value) for key, value in front["hypervolume"].items()
        },
        fronts={Resolution.parse(key): tuple(ids) for key, ids in front["fronts"].items()},
        members=tuple(
            Member(
                Evaluation(Architecture(entry["arch"]), _numbers(entry["metrics"]), 0.0),
                tuple(map(Resolution.parse, entry["resolutions"])),
            )
            for entry in front["members"]
        ),
    )


def _numbers(metrics: Any) -> dict[str, Any]:
    return {name: _number(value) for name, value in as_object(metrics).items()}


def _number(value: Any) -> float | None:
    return None if value is None else as_number(value)


def write_front(path: Path, result: SearchResult, subnets: int) -> None:
    """Write `front.json`: hypervolumes, fronts by id, and `subnets` chosen members in full."""
    found = fronts(result)
    ids = {
        resolution: [evaluation.arch.id for evaluation in evaluations]
        for resolution, evaluations in found.items()
    }
    write_json(
        path,
        {
            "hypervolume": {
                str(resolution): front_hypervolume(evaluations, result.goals.at(resolution))
                for resolution, evaluations in found.items()
            },
            "fronts": {str(resolution): names for resolution, names in ids.items()},
            "members": [
                {
                    "id": evaluation.arch.id,
                    "arch": dict(evaluation.arch),
                    "metrics": evaluation.metrics,
                    "resolutions": [
                        resolution.to_json()
                        for resolution in found
                        if evaluation.arch.id in ids[resolution]
                    ],
                }
                for evaluation in members(found, result.goals, subnets)
            ],
        },
    )
