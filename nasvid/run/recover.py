"""The stage that trains the best candidates further, and chooses the final front from them."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from nasvid.architecture import Architecture
from nasvid.distributed.sharing import divide, rounds
from nasvid.errors import Interrupted, UserError
from nasvid.evaluation import Evaluation
from nasvid.evaluator import Evaluator, Metrics
from nasvid.host.files import remove, write_json
from nasvid.host.reading import as_list, as_object
from nasvid.host.words import counted
from nasvid.recipe.sections import RecoverSection
from nasvid.run.evaluate import evaluated_with
from nasvid.run.own_weights import OwnWeights, recovery
from nasvid.run.session import Session
from nasvid.run.tune import Tuning
from nasvid.search.candidates import candidates
from nasvid.search.driver import SearchResult
from nasvid.search.evaluating import evaluated, is_measured
from nasvid.search.front import front_of, write_front
from nasvid.search.goals import Goals
from nasvid.search.record import read_record
from nasvid.training.engine import check_ready


def recover(session: Session) -> None:
    """Train the best candidates at each place of the front, on all ranks, and choose from them.

    `recover/recovered.json` has the metrics of each in the supernet and after its training,
    `recover/front.json` the final front. What was trained before with the same settings is kept.

    Raises:
        UserError: the engine lacks something on this machine, or none satisfies the constraints
            any more.
        Interrupted: by a signal; a checkpoint is saved.
        RankLost: another rank has ended.
    """
    section, ranks, stop = session.recipe.front.recover, session.ranks, session.stop
    if section is None:
        if ranks.is_rank0:
            remove(session.folder.recovered_front)
        return
    check_ready(session.recipe.training.engine)
    tuning = recovery(session, section)
    begun = ranks.rank0_does(lambda: _Recovery.begin(_Evaluation.of(tuning), section), stop)
    missing = ranks.agree(begun.missing if begun else [])
    if missing:
        session.in_turn(lambda: session.clips("train"))
        _recover(session, tuning, begun, missing)
    ranks.rank0_does(lambda: begun and begun.choose(), stop)


def _recover(
    session: Session, tuning: Tuning, begun: _Recovery | None, missing: Sequence[Architecture]
) -> None:
    """Train and evaluate candidates on all ranks. begun: what they are added to, on rank 0."""
    ranks, stop = session.ranks, session.stop
    session.in_turn(lambda: session.held_out)
    evaluation = begun.evaluation if begun else _Evaluation.of(tuning)
    for some in rounds(ranks, missing):
        for arch in some:
            tuning.train(arch)
        found = divide(ranks, some, evaluation.on_any_rank, stop)
        ranks.rank0_does(lambda some=some, found=found: begun and begun.add(some, found), stop)


@dataclass(frozen=True, slots=True)
class _Evaluation:
    """The evaluation of candidates that have been trained, by the search's evaluators.

    weights: has the supernet that gets the weights of one subnet after the other.
    """

    tuning: Tuning
    weights: OwnWeights
    evaluators: Sequence[Evaluator]

    @classmethod
    def of(cls, tuning: Tuning) -> _Evaluation:
        session, weights = tuning.session, OwnWeights(tuning.session)
        context = session.context(weights.copy)
        return cls(
            tuning, weights, [each.make(context) for each in session.recipe.search.evaluators]
        )

    def on_any_rank(self, arch: Architecture) -> Metrics:
        """Return what the training may have changed, but for what is measured anew each time."""
        return self._found(arch, measured=False)

    def on_rank0(self, arch: Architecture) -> Metrics:
        """Return what is measured anew each time."""
        return self._found(arch, measured=True)

    def _found(self, arch: Architecture, *, measured: bool) -> Metrics:
        evaluators = [
            each
            for each in self.evaluators
            if is_measured(each) == measured and not all(metric.known for metric in each.metrics)
        ]
        if evaluators:
            self.weights.with_model(arch, self.tuning.tuned(arch).net)
        return dict(evaluated(evaluators, arch).metrics)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Recovery:
    """What `recover/recovered.json` holds, and what is to be added; on rank 0.

    found: the candidates, as the search has evaluated them. after: metrics after the training, by
    id.
    """

    evaluation: _Evaluation
    goals: Goals
    found: Sequence[Evaluation]
    after: dict[str, Metrics]

    @classmethod
    def begin(cls, evaluation: _Evaluation, section: RecoverSection) -> _Recovery:
        session = evaluation.tuning.session
        search, components = session.recipe.search, session.components
        goals = Goals.of(
            components.space,
            components.shapes,
            evaluation.evaluators,
            search.objectives,
            search.constraints,
        )
        searched = SearchResult(goals, tuple(_again(goals, read_record(session.folder.record))), ())
        found = candidates(searched, session.recipe.front.subnets, section.top)
        made = cls(evaluation=evaluation, goals=goals, found=found, after={})
        made.after.update(made.read())
        session.made_again(session.folder.recovered_front, front_of)
        if made.missing:
            remove(session.folder.recovered_front)  # it was of other candidates
        said = f"{counted(len(made.missing), 'candidate')} of {len(found)} to train"
        session.display.say(f"recover: {said if made.missing else 'nothing to do'}")
        return made

    @property
    def tuning(self) -> Tuning:
        """How candidates are trained."""
        return self.evaluation.tuning

    @property
    def missing(self) -> list[Architecture]:
        """The candidates that are not recovered yet."""
        return [each.arch for each in self.found if each.arch.id not in self.after]

    @property
    def settings(self) -> dict[str, Any]:
        """What the metrics depend on besides the supernet and the architecture."""
        recipe = self.tuning.session.recipe
        evaluated = [evaluated_with(recipe, section) for section in recipe.search.evaluators]
        return {"training": self.tuning.settings, "evaluators": evaluated}

    def read(self) -> dict[str, Metrics]:
        """Return the metrics with these settings, by id, of subnets whose weights are intact."""
        session = self.tuning.session
        known = session.made_again(session.folder.recover / "recovered.json", _content)
        if known is None or known["settings"] != self.settings:
            return {}
        return {
            entry["id"]: {name: _number(value) for name, value in entry["after"].items()}
            for entry in known["subnets"]
            if self.tuning.is_trained(entry["id"])
        }

    def add(self, archs: Sequence[Architecture], found: Sequence[Metrics]) -> None:
        """Add candidates that have been trained and evaluated, and write the results.

        Raises:
            Interrupted: a signal asks to stop.
        """
        session = self.tuning.session
        for arch, metrics in zip(archs, found, strict=True):
            before = next(each.metrics for each in self.found if each.arch == arch)
            after = before | metrics | self.evaluation.on_rank0(arch)
            self.after[arch.id] = after
            self.write()
            shown = (
                f"{name} {before[name]:.4f} -> {after[name]:.4f}"
                for name in self.goals.objectives
                if name not in self.goals.known
            )
            session.display.say(f"recover: {arch.id}: {', '.join(shown)}")
        if self.missing and (signal := session.stop()) is not None:
            raise Interrupted(signal, "what is trained is kept")

    def choose(self) -> None:
        """Write the final front.

        Raises:
            UserError: none of the candidates satisfies the constraints.
        """
        session = self.tuning.session
        known = [replace(each, metrics=self.after[each.arch.id]) for each in self.found]
        result = SearchResult(self.goals, tuple(_again(self.goals, known)), ())
        if not result.feasible:
            raise UserError(
                "None of the recovered candidates satisfies search.constraints; relax them, raise "
                "front.recover.top, or set front.recover: null"
            )
        self.write()
        write_front(session.folder.recovered_front, result, session.recipe.front.subnets)

    def write(self) -> None:
        """Write the results so far."""
        rows = [
            {
                "id": each.arch.id,
                "before": _plain(each.metrics),
                "after": _plain(self.after[each.arch.id]),
            }
            for each in self.found
            if each.arch.id in self.after
        ]
        path = self.tuning.session.folder.recover / "recovered.json"
        write_json(path, {"settings": self.settings, "subnets": rows})


def _again(goals: Goals, evaluations: Sequence[Evaluation]) -> list[Evaluation]:
    """Return evaluations with their violation of the current constraints."""
    return [
        replace(each, violation=goals.violation(each.arch, each.metrics)) for each in evaluations
    ]


def _plain(metrics: Metrics) -> dict[str, float | None]:
    return {name: value if math.isfinite(value) else None for name, value in metrics.items()}


def _number(value: float | None) -> float:
    return math.nan if value is None else float(value)


def _content(value: Any) -> dict[str, Any]:
    as_object(value["settings"])
    for entry in as_list(value["subnets"]):
        as_object(entry["before"])
        for number in as_object(entry["after"]).values():
            _number(number)
    return value
