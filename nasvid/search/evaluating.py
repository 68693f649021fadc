"""How the ranks of a run evaluate architectures: which of them what, and what is kept meanwhile."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING

from nasvid.architecture import Architecture
from nasvid.evaluation import Evaluation
from nasvid.evaluator import Evaluator, Metrics, evaluate_one
from nasvid.host.files import cut_torn_line, remove
from nasvid.host.reading import found_in
from nasvid.search.record import append_record, evaluations

if TYPE_CHECKING:
    from nasvid.distributed.ranks import Ranks

Share = Callable[[Sequence[Architecture]], Iterable[Evaluation]]
"""Has architectures evaluated by whichever ranks there are; returns what was found, in order."""


@dataclass(frozen=True, slots=True)
class Evaluating:
    """The evaluation of architectures by evaluators that each rank has of its own.

    Most run on any rank. What is measured, such as time, is measured on rank 0, while the other
    ranks wait.

    unrecorded: keeps what is found until rank 0 has recorded it.
    """

    evaluators: Sequence[Evaluator]
    unrecorded: Unrecorded | None = None

    def on_any_rank(self, arch: Architecture) -> Evaluation:
        """Evaluate an architecture by all that is the same on any rank; its violation is 0."""
        found = evaluated([each for each in self.evaluators if not is_measured(each)], arch)
        if self.unrecorded is not None and self.unrecorded.ranks.size > 1:
            self.unrecorded.add(found)  # a single rank records it at once
        return found

    def alone(self, archs: Sequence[Architecture]) -> Iterator[Evaluation]:
        """Yield what all evaluators find of each architecture, one after the other, on one rank."""
        return self.each(archs, lambda work: map(self.on_any_rank, work))

    def each(self, archs: Sequence[Architecture], share: Share) -> Iterator[Evaluation]:
        """Yield what all evaluators find of each architecture, in order; on rank 0.

        Whoever takes the next one has recorded those before.
        """
        kept = {} if self.unrecorded is None else self._kept(self.unrecorded.found)
        shared = iter(share([arch for arch in archs if arch not in kept]))
        measured = [each for each in self.evaluators if is_measured(each)]
        for arch in archs:
            found = kept[arch] if arch in kept else next(shared)
            more = evaluated(measured, arch)
            metrics = self._ordered(found.metrics | more.metrics)
            yield Evaluation(arch, metrics, 0.0, found.seconds + more.seconds)
        if self.unrecorded is not None:
            self.unrecorded.forget(archs)

    def _kept(self, found: dict[Architecture, Evaluation]) -> dict[Architecture, Evaluation]:
        """Return what was found by the evaluators that run on any rank, and by no others."""
        names = {name for each in self.evaluators if not is_measured(each) for name in _names(each)}
        return {arch: each for arch, each in found.items() if each.metrics.keys() == names}

    def _ordered(self, metrics: Metrics) -> Metrics:
        """Return metrics in the order of their evaluators."""
        return {
            name: value
            for each in self.evaluators
            for name, value in metrics.items()
            if name in _names(each)
        }


@dataclass(frozen=True, slots=True)
class Unrecorded:
    """Evaluations that rank 0 has not recorded yet: a rank that is killed loses none of its own.

    Each rank appends to a file of its own, `rank-00001.jsonl`.

    found: what earlier processes have left.
    """

    folder: Path
    ranks: Ranks
    found: dict[Architecture, Evaluation] = field(default_factory=dict)

    def add(self, evaluation: Evaluation) -> None:
        """Keep an evaluation."""
        append_record(self.folder / f"rank-{self.ranks.rank:05d}.jsonl", evaluation)

    def read(self) -> None:
        """Read what was left; of one architecture there may be several lines.

        Raises:
            UserError: a file is damaged.
        """
        for path in found_in(self.folder, "rank-*.jsonl"):
            cut_torn_line(path)
            for each in evaluations(path, "delete the file: what it holds is evaluated again"):
                before = self.found.get(each.arch, each)
                metrics = before.metrics | each.metrics
                self.found[each.arch] = replace(each, metrics=metrics)

    def forget(self, archs: Iterable[Architecture]) -> None:
        """Remove what is recorded now, if nothing else is left."""
        for arch in archs:
            self.found.pop(arch, None)
        if not self.found:
            remove(self.folder)


def evaluated(evaluators: Sequence[Evaluator], arch: Architecture) -> Evaluation:
    """Return what some evaluators find of an architecture; nan for what is not finite."""
    start = time.perf_counter()
    metrics: Metrics = {}
    for evaluator in evaluators:
        found = evaluate_one(evaluator, arch)
        metrics |= {k: v if math.isfinite(v) else math.nan for k, v in found.items()}
    return Evaluation(arch, metrics, 0.0, time.perf_counter() - start)


def is_measured(evaluator: Evaluator) -> bool:
    """Whether what it finds depends on the moment and the machine, as time does."""
    return any(metric.measured for metric in evaluator.metrics)


def _names(evaluator: Evaluator) -> set[str]:
    shapes = evaluator.context.shapes
    return {name for metric in evaluator.metrics for name in metric.keys(shapes)}
