"""The search: ask a strategy, judge, record, tell; until the budget is spent."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from nasvid.architecture import Architecture
from nasvid.errors import UserError
from nasvid.evaluator import Evaluator, Metrics, cost_values
from nasvid.recipe.sections import SearchSection
from nasvid.search.goals import Goals
from nasvid.search.record import Record, append_record, cut_torn_line, read_record
from nasvid.strategy import Judged, RunContext, Strategy

if TYPE_CHECKING:
    from nasvid.search.judge import Context

IDLE_ROUNDS = 20
"""Asks in a row with nothing new in them after which a search ends early."""


@dataclass(frozen=True, slots=True)
class Progress:
    """Where a search is after an architecture was judged, or taken from the record.

    best: objective -> its best value so far among architectures that satisfy the constraints.
    """

    done: int
    budget: int
    record: Record
    best: Mapping[str, float]


@dataclass(frozen=True, slots=True)
class SearchResult:
    """What a search has found.

    records: everything judged with this supernet, in the order of the record.
    messages: what the user should know: why it ended early, what was left out.
    """

    goals: Goals
    records: tuple[Record, ...]
    messages: tuple[str, ...]

    @property
    def feasible(self) -> list[Record]:
        """The records that satisfy all constraints."""
        return [record for record in self.records if record.violation <= 0]


def run_search(
    section: SearchSection,
    context: Context,
    *,
    seed: int,
    record_path: Path,
    run: RunContext | None = None,
    on_progress: Callable[[Progress], None] | None = None,
) -> SearchResult:
    """Search as a recipe's section says; goes on from what `record_path` holds.

    run: what the strategy is told of the run, and where it may keep files.

    Raises:
        UserError: an objective or constraint names no metric, or the record is damaged or of
            another search.
    """
    evaluators: list[Evaluator] = [part.make(context) for part in section.evaluators]
    goals = Goals.of(
        context.supernet.space, context.shapes, evaluators, section.objectives, section.constraints
    )
    return search(
        goals,
        section.strategy.make(goals.problem(seed, run)),
        evaluators,
        budget=section.budget,
        batch=section.batch,
        record_path=record_path,
        on_progress=on_progress,
    )


def search(
    goals: Goals,
    strategy: Strategy,
    evaluators: Sequence[Evaluator],
    *,
    budget: int,
    batch: int,
    record_path: Path,
    on_progress: Callable[[Progress], None] | None = None,
) -> SearchResult:
    """Judge `budget` distinct architectures, the same one never twice.

    The smallest and the largest are judged first, where the constraints on cost allow them, so
    that a front has its ends; a strategy that asks for them is answered from the record. Proposals
    that miss a constraint on cost are answered without judging and cost no budget.

    A search is resumed by replay: the fresh strategy is told the recorded results again, and goes
    on exactly as the one that was interrupted would have.
    """
    bench = _Bench(goals, strategy, evaluators, budget, record_path, on_progress)
    try:
        bench.answers([goals.space.smallest, goals.space.largest][:budget])
        ended = _converse(bench, strategy, budget, batch)
    finally:
        strategy.close()
    records = tuple(bench.recorded.values())
    if not records:
        raise UserError(_unreachable(goals))
    return SearchResult(goals, records, (*ended, *_warnings(records)))


def _converse(bench: _Bench, strategy: Strategy, budget: int, batch: int) -> list[str]:
    """Ask and tell until the budget is spent; return why it ended if it ended early."""
    idle = 0
    name = type(strategy).__name__
    while bench.left > 0:
        n = min(batch, bench.left)
        asked = strategy.ask(n)
        if len(asked) > n:
            raise UserError(f"{name} was asked for {n} architectures and gave {len(asked)}")
        if not asked:
            size = bench.goals.space.size
            return [
                f"{name} had nothing more to propose after {len(bench.judged)} of {budget} "
                f"architectures (the space has {size:,})"
            ]
        before = bench.left
        strategy.tell(bench.answers(asked))
        idle = idle + 1 if bench.left == before else 0
        if idle == IDLE_ROUNDS:
            return [
                f"{name} proposed nothing new in {IDLE_ROUNDS} rounds: ended after "
                f"{len(bench.judged)} of {budget} architectures"
            ]
    return []


def _unreachable(goals: Goals) -> str:
    """Say which constraints on cost no architecture was found to satisfy, and what there is."""
    space = goals.space
    ends = np.stack([space.encode(space.smallest), space.encode(space.largest)])
    reach = []
    for constraint in goals.on_cost:
        low, high = cost_values(space, ends, goals.shapes, constraint.metric)
        reach.append(f"{constraint} (this space has {low:,.0f} to {high:,.0f})")
    return f"search.constraints: no architecture was found with {' and '.join(reach)}"


def _warnings(records: Sequence[Record]) -> list[str]:
    if not any(record.violation <= 0 for record in records):
        return [f"none of the {len(records)} architectures judged satisfies the constraints"]
    broken = [record.arch.id for record in records if math.isinf(record.violation)]
    if broken:
        return [
            f"{len(broken)} of {len(records)} architectures have a metric that is not finite and "
            f"are left out of the front: {', '.join(broken[:5])}"
        ]
    return []


class _Bench:
    """Where architectures are judged, each once.

    recorded: everything in the record; judged: what this search has asked for, its budget.
    """

    def __init__(
        self,
        goals: Goals,
        strategy: Strategy,
        evaluators: Sequence[Evaluator],
        budget: int,
        path: Path,
        on_progress: Callable[[Progress], None] | None,
    ) -> None:
        self.goals = goals
        self.strategy = strategy
        self.evaluators = evaluators
        self.budget = budget
        self.path = path
        self.on_progress = on_progress
        self.judged: dict[Architecture, Record] = {}
        self.best: dict[str, float] = {}
        path.parent.mkdir(parents=True, exist_ok=True)
        cut_torn_line(path)
        self.recorded = {r.arch: self._checked(r) for r in read_record(path)}

    @property
    def left(self) -> int:
        """Architectures that may still be judged."""
        return self.budget - len(self.judged)

    def answers(self, archs: Sequence[Architecture]) -> list[Judged]:
        """Judge architectures, or say what is known of them."""
        space = self.goals.space
        archs = [space.architecture(arch) for arch in archs]
        violations = [float(self._violation(arch)) for arch in archs]
        new = [
            a for a, v in zip(archs, violations, strict=True) if v <= 0 and a not in self.recorded
        ]
        self.strategy.announce(list(dict.fromkeys(new)))
        return [self._answer(a, v) for a, v in zip(archs, violations, strict=True)]

    def _violation(self, arch: Architecture) -> float:
        return self.goals.cost_violation(self.goals.space.encode(arch)[None])[0]

    def _answer(self, arch: Architecture, violation: float) -> Judged:
        if violation > 0:
            return Judged(arch, np.full(len(self.goals.objectives), np.inf), violation)
        if arch not in self.judged:
            if arch not in self.recorded:
                self.recorded[arch] = self._judge(arch)
                append_record(self.path, self.recorded[arch])
                self.strategy.judged(self._result(self.recorded[arch]))
            self.judged[arch] = self.recorded[arch]
            self._report(self.recorded[arch])
        return self._result(self.judged[arch])

    def _result(self, record: Record) -> Judged:
        values = self.goals.values(record.metrics)
        return Judged(record.arch, values, record.violation, record.metrics)

    def _judge(self, arch: Architecture) -> Record:
        about = self.strategy.about(arch)
        start = time.perf_counter()
        metrics: Metrics = {}
        for evaluator in self.evaluators:
            (found,) = evaluator.evaluate([arch])
            expected = {k for m in evaluator.metrics for k in m.keys(self.goals.shapes)}
            if set(found) != expected:
                raise UserError(
                    f"evaluator {type(evaluator).__name__} declares the metrics "
                    f"{', '.join(sorted(expected))} but gives {', '.join(sorted(found))}"
                )
            metrics |= {k: float(v) if math.isfinite(v) else math.nan for k, v in found.items()}
        violation = self.goals.violation(arch, metrics)
        return Record(arch, metrics, violation, time.perf_counter() - start, about)

    def _checked(self, record: Record) -> Record:
        """Return a record read back, its violation that of today's constraints."""
        if set(record.metrics) != set(self.goals.metrics):
            raise UserError(
                f"{self.path}: {record.arch.id} was judged by other evaluators (it has "
                f"{', '.join(record.metrics)}; this search needs {', '.join(self.goals.metrics)}): "
                "delete the file to search anew"
            )
        arch = self.goals.space.architecture(record.arch)
        return replace(record, violation=self.goals.violation(arch, record.metrics))

    def _report(self, record: Record) -> None:
        if record.violation <= 0:
            for name in self.goals.objectives:
                pick = min if self.goals.metrics[name].goal == "minimise" else max
                value = record.metrics[name]
                self.best[name] = pick(self.best.get(name, value), value)
        if self.on_progress is not None:
            done = len(self.judged)
            self.on_progress(Progress(done, self.budget, record, dict(self.best)))
