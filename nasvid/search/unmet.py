"""Explains why a search found no architecture."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence

import numpy as np

from nasvid.errors import UserError
from nasvid.evaluation import Evaluation
from nasvid.host.words import counted, quantity
from nasvid.recipe.constraint import Constraint
from nasvid.search.goals import Goals


class NothingFoundError(UserError):
    """A search found no architecture that satisfies its constraints and has finite metrics."""


def check_found(goals: Goals, evaluations: Sequence[Evaluation]) -> None:
    """Check that a search found something.

    Raises:
        NothingFoundError: it did not; the message says what each constraint allows, or which
            metrics are not finite.
    """
    if not evaluations:
        raise NothingFoundError(f"No architecture was found with {_reach(goals)}; relax them")
    if any(evaluation.feasible for evaluation in evaluations):
        return
    finite = [each for each in evaluations if math.isfinite(each.violation)]
    count = counted(len(evaluations), "evaluated architecture")
    if not finite:
        names = sorted({name for each in evaluations for name in _broken(each)})
        raise NothingFoundError(
            f"None of {count} has finite metrics (not finite: {', '.join(names)}); check the "
            "evaluators and the weights"
        )
    each = "; ".join(_nearest(goals, constraint, finite) for constraint in _all(goals))
    raise NothingFoundError(f"None of {count} satisfies search.constraints: {each}. Relax them")


def _all(goals: Goals) -> Iterable[Constraint]:
    return (*goals.on_cost, *goals.on_metrics)


def _broken(evaluation: Evaluation) -> list[str]:
    return [name for name, value in evaluation.metrics.items() if not math.isfinite(value)]


def _nearest(goals: Goals, constraint: Constraint, evaluations: Sequence[Evaluation]) -> str:
    """Return how many architectures satisfy one constraint, and the closest value to it."""
    if constraint in goals.on_cost:
        genomes = np.stack([goals.space.encode(each.arch) for each in evaluations])
        values = goals.known[constraint.metric].of(genomes)
    else:
        values = np.array([each.metrics[constraint.metric] for each in evaluations])
    number = int((constraint.violation(values) == 0).sum())
    best = values.min() if constraint.relation[0] == "<" else values.max()
    end = "lowest" if constraint.relation[0] == "<" else "highest"
    return f"{constraint} holds for {number} (the {end} is {quantity(float(best), digits=4)})"


def _reach(goals: Goals) -> str:
    """Return the constraints on cost, each with the range of costs in the space."""
    space = goals.space
    ends = np.stack([space.encode(space.smallest), space.encode(space.largest)])
    reach = []
    for constraint in goals.on_cost:
        low, high = goals.known[constraint.metric].of(ends)
        reach.append(f"{constraint} (this space ranges from {quantity(low)} to {quantity(high)})")
    return " and ".join(reach)
