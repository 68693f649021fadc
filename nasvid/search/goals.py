"""The goals of a search: objectives and constraints, resolved to existing metrics."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from nasvid.architecture import Architecture
from nasvid.errors import UserError, nearest
from nasvid.evaluator import Evaluator, KnownCost, Metric, Metrics
from nasvid.host.files import write_json
from nasvid.metrics.cost import COSTS, space_costs
from nasvid.recipe.constraint import Constraint
from nasvid.recipe.sections import SearchSection
from nasvid.shapes import Resolution, VideoShape
from nasvid.space import SearchSpace
from nasvid.strategy import Problem, RunContext


@dataclass(frozen=True, slots=True)
class Goals:
    """The objectives and constraints of a search.

    metrics: every metric that the evaluators report, by full name (`loss`, `loss@64`).
    known: the metrics that are known before an evaluation, by full name.
    objectives: names from `metrics`.
    on_cost: constraints that can be checked before an evaluation; `on_metrics`: only after one.
    """

    space: SearchSpace
    shapes: Mapping[Resolution, VideoShape]
    metrics: Mapping[str, Metric]
    known: Mapping[str, KnownCost]
    objectives: tuple[str, ...]
    on_cost: tuple[Constraint, ...]
    on_metrics: tuple[Constraint, ...]

    @classmethod
    def of(
        cls,
        space: SearchSpace,
        shapes: Mapping[Resolution, VideoShape],
        evaluators: Iterable[Evaluator],
        objectives: Sequence[str],
        constraints: Iterable[str],
    ) -> Goals:
        """Resolve a recipe's objectives and constraints against its evaluators' metrics.

        Raises:
            UserError: an objective or constraint does not name a metric, two evaluators report
                the same one, or a file that an evaluator needs is missing or does not fit.
        """
        evaluators = list(evaluators)
        named = [(type(evaluator).__name__, evaluator.metrics) for evaluator in evaluators]
        metrics = metric_keys(named, shapes)
        parsed = [Constraint.parse(text) for text in constraints]
        _check_names(objectives, parsed, metrics, shapes)
        known = space_costs(space, shapes)
        for each in evaluators:
            known |= each.known(each.config, space, shapes)
        largest = space.encode(space.largest)[None]
        on_cost = tuple(
            c.relative_to(float(known[c.metric].of(largest)[0]))
            for c in parsed
            if c.metric in known
        )
        on_metrics = tuple(
            c.relative_to(metrics[c.metric].reference) for c in parsed if c.metric not in known
        )
        return cls(space, shapes, metrics, known, tuple(objectives), on_cost, on_metrics)

    def problem(self, seed: int, run: RunContext | None = None) -> Problem:
        """Return the problem for a strategy."""
        known = [name for name in self.objectives if name in self.known]
        known += [constraint.metric for constraint in self.on_cost]
        return Problem(
            space=self.space,
            objectives=self.objectives,
            seed=seed,
            shape=self.shapes[max(self.shapes)],
            violation=self.cost_violation,
            maximised=frozenset(n for n in self.objectives if self.metrics[n].goal == "maximise"),
            costs={name: self.known[name].of for name in known},
            limits={name: self._limits(name) for name in known},
            run=run,
        )

    def _limits(self, name: str) -> tuple[float, float]:
        bounds = [c for c in self.on_cost if c.metric == name]
        above = (c.bound for c in bounds if c.relation[0] == ">")
        below = (c.bound for c in bounds if c.relation[0] == "<")
        return max(above, default=-np.inf), min(below, default=np.inf)

    def at(self, resolution: Resolution) -> Goals:
        """Return the goals at one resolution: `loss` and `loss@64` become `loss@<resolution>`."""
        names = (f"{_base(name)}@{resolution}" for name in self.objectives)
        here = (n if n in self.metrics else _base(n) for n in names)
        return replace(self, objectives=tuple(dict.fromkeys(here)))

    def cost_violation(self, genomes: np.ndarray) -> np.ndarray:
        """Return each genome's violation of the constraints on cost: float64, shape `(n,)`."""
        total = np.zeros(len(genomes))
        for constraint in self.on_cost:
            total += constraint.violation(self.known[constraint.metric].of(genomes))
        return total

    def violation(self, arch: Architecture, metrics: Metrics) -> float:
        """Return the violation of all constraints; inf if a metric is not finite."""
        return float(self.violations(self.space.encode(arch)[None], [metrics])[0])

    def violations(self, genomes: np.ndarray, metrics: Sequence[Metrics]) -> np.ndarray:
        """Return the violation of all constraints by each genome: float64, shape `(n,)`.

        metrics: of each. inf where one is not finite.
        """
        total = np.zeros(len(genomes))
        for constraint in self.on_metrics:
            total += constraint.violation(np.array([each[constraint.metric] for each in metrics]))
        total += self.cost_violation(genomes)
        finite = [all(map(math.isfinite, each.values())) for each in metrics]
        return np.where(finite, total, np.inf)

    def values(self, metrics: Metrics) -> np.ndarray:
        """Return the objectives, each to be minimised: float64, inf where not finite."""
        values = np.array([metrics[name] for name in self.objectives], dtype=np.float64)
        values = values * self._signs
        return np.where(np.isfinite(values), values, np.inf)

    @property
    def cost_axis(self) -> str:
        """The cost that a front is spread over: the first objective that is one, or `params`."""
        return next((name for name in self.objectives if name in self.known), "params")

    def costs(self, archs: Sequence[Architecture]) -> np.ndarray:
        """Return the `cost_axis` of each architecture: float64, shape `(n,)`."""
        if not archs:
            return np.zeros(0)
        genomes = np.stack([self.space.encode(arch) for arch in archs])
        return self.known[self.cost_axis].of(genomes)

    def reference(self) -> np.ndarray:
        """Return each objective's value for a useless model, to be minimised as in `values`.

        nan if there is no such value. A cost's is the largest architecture's, a metric may declare
        its own; so it is fixed before the search.
        """
        largest = self.space.encode(self.space.largest)[None]
        references = [
            self.known[name].of(largest)[0] if name in self.known else self.metrics[name].reference
            for name in self.objectives
        ]
        return np.array(references, dtype=np.float64) * self._signs

    def ideal(self) -> np.ndarray:
        """Return the best possible value of each objective, to be minimised as in `values`."""
        ideals = [self.metrics[name].ideal or 0.0 for name in self.objectives]
        return np.array(ideals, dtype=np.float64) * self._signs

    @property
    def _signs(self) -> list[int]:
        return [1 if self.metrics[name].goal == "minimise" else -1 for name in self.objectives]


def metric_keys(
    declared: Iterable[tuple[str, Iterable[Metric]]], resolutions: Iterable[Resolution]
) -> dict[str, Metric]:
    """Return every metric that evaluators report, by full name.

    declared: each evaluator's name and its metrics.

    Raises:
        UserError: two evaluators report a metric with the same name.
    """
    given: dict[str, str] = {}
    keys: dict[str, Metric] = {}
    resolutions = list(resolutions)
    for evaluator, metrics in declared:
        for metric in metrics:
            other = given.setdefault(metric.name, evaluator)
            if metric.name in keys:
                raise UserError(
                    f"{other} and {evaluator} both report '{metric.name}'; remove one of them"
                )
            keys |= dict.fromkeys(metric.keys(resolutions), metric)
    return keys


def write_goals(path: Path, section: SearchSection) -> None:
    """Write `goals.json`: a search's objectives, its constraints and the meaning of its metrics."""
    metrics = {metric.name: metric for part in section.evaluators for metric in part.metrics}
    constrained = {_base(Constraint.parse(text).metric) for text in section.constraints}
    metrics |= {metric.name: metric for metric in COSTS if metric.name in constrained}
    write_json(
        path,
        {
            "objectives": list(section.objectives),
            "constraints": list(section.constraints),
            "metrics": {name: metric.to_json() for name, metric in metrics.items()},
        },
    )


def _check_names(
    objectives: Sequence[str],
    constraints: Iterable[Constraint],
    metrics: Mapping[str, Metric],
    resolutions: Iterable[Resolution],
) -> None:
    resolutions = list(resolutions)
    costs = {key for metric in COSTS for key in metric.keys(resolutions)}
    asked = [(name, name, set(metrics)) for name in objectives]
    asked += [(c.metric, str(c), costs | set(metrics)) for c in constraints]
    for name, text, known in asked:
        if name not in known:
            near = nearest(name, sorted(known))
            raise UserError(f"search: '{text}': no evaluator reports '{name}'{near}")


def _base(name: str) -> str:
    return name.partition("@")[0]
