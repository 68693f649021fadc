"""The search: ask the strategy, evaluate, record, tell, until the budget is spent."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import closing, nullcontext
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from nasvid.architecture import Architecture
from nasvid.errors import UserError
from nasvid.evaluation import Evaluation
from nasvid.host.files import cut_torn_line, make_folder
from nasvid.host.terminal import one_line
from nasvid.host.words import counted
from nasvid.recipe.sections import SearchSection
from nasvid.search.evaluating import Evaluating, Share
from nasvid.search.goals import Goals
from nasvid.search.record import append_record, read_record
from nasvid.search.unmet import check_found
from nasvid.strategy import RunContext, SearchObserver, Strategy

if TYPE_CHECKING:
    from nasvid.evaluator import Context

Evaluate = Callable[[Sequence[Architecture]], Iterable[Evaluation]]
IDLE_ROUNDS = 20
"""A search ends early after this many rounds in a row without a new architecture."""


@dataclass(frozen=True, slots=True)
class Progress:
    """The progress of a search after an architecture was evaluated, or read from the record.

    best: objective -> its best value so far among architectures that satisfy the constraints.
    """

    done: int
    budget: int
    evaluation: Evaluation
    best: Mapping[str, float]


@dataclass(frozen=True, slots=True)
class SearchResult:
    """The result of a search.

    evaluations: everything evaluated with this supernet, in the order of the record.
    messages: for the user: why it ended early, what was left out.
    """

    goals: Goals
    evaluations: tuple[Evaluation, ...]
    messages: tuple[str, ...]

    @property
    def feasible(self) -> list[Evaluation]:
        """The evaluations that satisfy all constraints."""
        return [evaluation for evaluation in self.evaluations if evaluation.feasible]


def run_search(
    section: SearchSection,
    context: Context,
    *,
    seed: int,
    record_path: Path,
    run: RunContext | None = None,
    on_progress: Callable[[Progress], None] | None = None,
    evaluating: Evaluating | None = None,
    share: Share | None = None,
) -> SearchResult:
    """Search according to a recipe's section, resuming from the record at `record_path`.

    run: for the strategy and its files. evaluating: by the section's evaluators; made from the
    context by default. share: divides what is evaluated among ranks; by default it is done here.

    Raises:
        NothingFoundError: no architecture satisfies the constraints and has finite metrics.
        UserError: an objective or constraint does not name a metric, or the record is damaged or
            belongs to another search.
    """
    evaluating = evaluating or Evaluating([part.make(context) for part in section.evaluators])
    goals = Goals.of(
        context.supernet.space,
        context.shapes,
        evaluating.evaluators,
        section.objectives,
        section.constraints,
    )
    return search(
        goals,
        section.strategy.make(goals.problem(seed, run)),
        partial(evaluating.each, share=share) if share else evaluating.alone,
        budget=section.budget,
        batch=section.batch,
        record_path=record_path,
        on_progress=on_progress,
    )


def search(
    goals: Goals,
    strategy: Strategy,
    evaluate: Evaluate,
    *,
    budget: int,
    batch: int,
    record_path: Path,
    on_progress: Callable[[Progress], None] | None = None,
) -> SearchResult:
    """Evaluate `budget` distinct architectures.

    evaluate: yields the evaluation of each architecture, in order; violations are worked out here.

    The smallest and the largest come first, if the constraints on cost allow them, so that a front
    has both ends; if the strategy asks for them, they come from the record. Proposals that violate
    a constraint on cost are returned at once: they are not evaluated and do not use up budget.

    A search is resumed by replay: a new strategy receives the recorded evaluations again, and
    proposes exactly what the interrupted one would have.

    Raises:
        NothingFoundError: no architecture satisfies the constraints and has finite metrics.
    """
    observer = strategy.Observer(strategy) if strategy.Observer else None
    with closing(observer) if observer else nullcontext():
        evaluations = _Evaluations(goals, evaluate, budget, record_path, observer, on_progress)
        evaluations.of([goals.space.smallest, goals.space.largest][:budget])
        ended = _converse(evaluations, strategy, budget, batch)
    found = tuple(evaluations.recorded.values())
    check_found(goals, found)
    return SearchResult(goals, found, (*ended, *_warnings(found)))


def _converse(evaluations: _Evaluations, strategy: Strategy, budget: int, batch: int) -> list[str]:
    """Ask and tell until the budget is spent; return the reasons if it ended early."""
    idle = 0
    name = type(strategy).__name__
    while (left := budget - evaluations.spent) > 0:
        n = min(batch, left)
        asked = strategy.ask(n)
        if len(asked) > n:
            raise UserError(f"{name} was asked for {n} architectures but returned {len(asked)}")
        results = evaluations.of(asked)
        if not asked:
            size = evaluations.goals.space.size
            return [
                f"{name} had nothing left to propose after {evaluations.spent} of {budget} "
                f"architectures (the space has {size:,})"
            ]
        strategy.tell(results)
        idle = idle + 1 if budget - evaluations.spent == left else 0
        if idle == IDLE_ROUNDS:
            return [
                f"{name} proposed nothing new in {IDLE_ROUNDS} rounds; the search ended after "
                f"{evaluations.spent} of {budget} architectures"
            ]
    return []


def _warnings(evaluations: Sequence[Evaluation]) -> list[str]:
    count = len(evaluations)
    broken = [each.arch.id for each in evaluations if math.isinf(each.violation)]
    if broken:
        return [
            f"Left out of the front because a metric is not finite: {', '.join(broken[:5])} "
            f"({len(broken)} of {counted(count, 'architecture')})"
        ]
    return []


class _Evaluations:
    """Evaluates architectures, each once, and keeps the record.

    recorded: everything in the record.
    """

    def __init__(
        self,
        goals: Goals,
        evaluate: Evaluate,
        budget: int,
        path: Path,
        observer: SearchObserver | None,
        on_progress: Callable[[Progress], None] | None,
    ) -> None:
        self.goals = goals
        self._evaluate = evaluate
        self._budget = budget
        self._path = path
        self._observer = observer
        self._on_progress = on_progress
        self._spent_on: set[Architecture] = set()
        self._best: dict[str, float] = {}
        make_folder(path.parent)
        cut_torn_line(path)
        self.recorded = {each.arch: each for each in self._checked(read_record(path))}

    @property
    def spent(self) -> int:
        """The budget spent: the number of architectures that this search has requested."""
        return len(self._spent_on)

    def of(self, archs: Sequence[Architecture]) -> list[Evaluation]:
        """Return each architecture's evaluation, from the record or computed now."""
        archs, genomes = self.goals.space.architectures(archs)
        violations = self.goals.cost_violation(genomes).tolist()
        missed = {arch: each for arch, each in zip(archs, violations, strict=True) if each > 0}
        known = self.recorded
        new = [each for each in dict.fromkeys(archs) if each not in missed and each not in known]
        if self._observer:
            self._observer.proposed(new)
        found = iter(self._evaluate(new) if new else ())
        evaluations = [
            Evaluation(arch, {}, missed[arch]) if arch in missed else self._of_feasible(arch, found)
            for arch in archs
        ]
        next(found, None)  # all are recorded
        return evaluations

    def _of_feasible(self, arch: Architecture, found: Iterator[Evaluation]) -> Evaluation:
        """Return an evaluation. found: yields those of architectures that have none yet."""
        if arch not in self.recorded:
            about = self._observer.evaluating(arch) if self._observer else {}
            evaluation = next(found)
            violation = self.goals.violation(arch, evaluation.metrics)
            evaluation = replace(evaluation, violation=violation, about=about)
            append_record(self._path, evaluation)
            self.recorded[arch] = evaluation
            if self._observer:
                self._observer.evaluated(evaluation)
        if arch not in self._spent_on:
            self._spent_on.add(arch)
            self._report(self.recorded[arch])
        return self.recorded[arch]

    def _checked(self, evaluations: Sequence[Evaluation]) -> list[Evaluation]:
        """Return recorded evaluations with their violation of the current constraints."""
        for each in evaluations:
            if each.metrics.keys() != self.goals.metrics.keys():
                raise UserError(
                    f"{self._path}: {each.arch.id} was evaluated with other metrics (it has "
                    f"{one_line(', '.join(each.metrics))}; this search needs "
                    f"{', '.join(self.goals.metrics)}); delete the file to start a new search"
                )
        if not evaluations:
            return []
        archs, genomes = self.goals.space.architectures([each.arch for each in evaluations])
        violations = self.goals.violations(genomes, [each.metrics for each in evaluations])
        return [
            replace(each, arch=arch, violation=violation)
            for arch, each, violation in zip(archs, evaluations, violations.tolist(), strict=True)
        ]

    def _report(self, evaluation: Evaluation) -> None:
        if evaluation.feasible:
            for name in self.goals.objectives:
                pick = min if self.goals.metrics[name].goal == "minimise" else max
                value = evaluation.metrics[name]
                self._best[name] = pick(self._best.get(name, value), value)
        if self._on_progress is not None:
            progress = Progress(self.spent, self._budget, evaluation, dict(self._best))
            self._on_progress(progress)
