"""The stage that evaluates the front's members after the search: `evaluate/metrics.json`."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from nasvid.architecture import Architecture
from nasvid.distributed.sharing import lead
from nasvid.errors import Interrupted
from nasvid.evaluator import Evaluator, EvaluatorSection, Metrics
from nasvid.host.device import pick_device
from nasvid.host.files import remove, write_json
from nasvid.host.reading import as_object, read_json
from nasvid.recipe.sections import Recipe
from nasvid.run.folder import RunFolder
from nasvid.run.own_weights import OwnWeights
from nasvid.run.session import Session
from nasvid.search.evaluating import Unrecorded, evaluated, is_measured
from nasvid.search.front import read_front

Kept = dict[str, dict[str, float | None]]
"""Id of an architecture -> its metrics; null if not finite."""


def evaluate(session: Session) -> None:
    """Evaluate each member of the front with `front.evaluators`, on all ranks, unless already done.

    Results with the same settings are kept, evaluator by evaluator and member by member.

    Raises:
        Interrupted: by a signal; finished evaluations are kept.
        RankLost: another rank has ended.
    """
    recipe, folder, ranks = session.recipe, session.folder, session.ranks
    kept = ranks.agree(ranks.rank0_does(lambda: _begin(session), session.stop) or {})
    archs = [member.evaluation.arch for member in read_front(folder.final_front).members]
    work = {arch: missing for arch in archs if (missing := _missing(recipe, kept, arch))}
    if work:
        session.in_turn(lambda: session.held_out)
        evaluation = _Evaluation.of(session, kept, work)
        lead(ranks, evaluation.on_any_rank, evaluation.of_all, session.stop)
    if recipe.front.evaluators:
        done = f"{len(work)} of {len(archs)} chosen subnets" if work else "nothing to do"
        session.display.say(f"evaluate: {done}")


def _begin(session: Session) -> Kept:
    """Return what is kept of earlier results, those of killed ranks included; on rank 0."""
    recipe, folder = session.recipe, session.folder
    unrecorded = _unrecorded(session)
    before = session.made_again(_path(folder), _content)
    if before is not None:
        unrecorded.read()
        for arch, left in unrecorded.found.items():
            before["metrics"][arch.id] = before["metrics"].get(arch.id, {}) | _plain(left.metrics)
    kept = _kept(before or {}, recipe)
    if before is not None or recipe.front.evaluators:
        _write(folder, recipe, kept)
    remove(unrecorded.folder)
    return kept


@dataclass(frozen=True, slots=True)
class _Evaluation:
    """The evaluation of members, each by the evaluators that have not evaluated it yet.

    work: their numbers, by architecture.
    """

    session: Session
    kept: Kept
    work: Mapping[Architecture, Sequence[int]]
    weights: OwnWeights
    evaluators: Sequence[Evaluator]

    @classmethod
    def of(
        cls, session: Session, kept: Kept, work: Mapping[Architecture, Sequence[int]]
    ) -> _Evaluation:
        weights = OwnWeights(session)
        context = session.context(weights.supernet(next(iter(work))))
        evaluators = [section.make(context) for section in session.recipe.front.evaluators]
        return cls(session, kept, work, weights, evaluators)

    def on_any_rank(self, arch: Architecture) -> Metrics:
        """Evaluate a member by what is the same on any rank, and keep each result."""
        return self._found(arch, measured=False)

    def _found(self, arch: Architecture, *, measured: bool) -> Metrics:
        evaluators = [self.evaluators[number] for number in self.work[arch]]
        self.weights.supernet(arch)
        metrics: Metrics = {}
        for evaluator in evaluators:
            if is_measured(evaluator) == measured:
                found = evaluated([evaluator], arch)
                _unrecorded(self.session).add(found)
                metrics |= found.metrics
        return metrics

    def of_all(self, share: Callable[[Sequence[Architecture]], Iterable[Metrics]]) -> None:
        """Have all members evaluated, measure what rank 0 alone measures, and write the results."""
        session, total = self.session, len(self.work)
        with (
            session.folder.logged("evaluate"),
            session.display.track("evaluate", total, "subnets") as tracker,
        ):
            for arch, found in zip(self.work, share(list(self.work)), strict=True):
                self._add(arch, found | self._found(arch, measured=True))
                tracker.advance(arch.id)
                if (signal := session.stop()) is not None:
                    raise Interrupted(signal, "finished evaluations are kept")
        remove(_unrecorded(session).folder)

    def _add(self, arch: Architecture, found: Metrics) -> None:
        self.kept[arch.id] = self.kept.get(arch.id, {}) | _plain(found)
        _write(self.session.folder, self.session.recipe, self.kept)
        if broken := [name for name, value in found.items() if not math.isfinite(value)]:
            what = f"not a finite number for {arch.id}: {', '.join(broken)}"
            self.session.display.say(f"evaluate: {what}; the report leaves it out")


def _unrecorded(session: Session) -> Unrecorded:
    return Unrecorded(session.folder.evaluate / "unrecorded", session.ranks)


def _plain(found: Metrics) -> dict[str, float | None]:
    return {name: value if math.isfinite(value) else None for name, value in found.items()}


def metrics(folder: RunFolder, id_: str) -> Metrics:
    """Return an architecture's metrics from after the search; {} if it was not evaluated."""
    content = read_json(_path(folder), _content) or {}
    found = content.get("metrics", {}).get(id_, {})
    return {name: value for name, value in found.items() if value is not None}


def evaluated_with(recipe: Recipe, section: EvaluatorSection) -> dict[str, Any]:
    """Return the settings that an evaluator's metrics of trained weights depend on."""
    settings = {
        **json.loads(section.model_dump_json()),
        **section.cls.depends_on(section.config),
        "clips": recipe.search.clips,
        "checkpoint": recipe.search.checkpoint,
        "device": pick_device(recipe.training.device).type,
    }
    if section.cls.makes_videos:
        settings["guidance_scale"] = recipe.front.guidance_scale
        settings["sampling_steps"] = recipe.front.sampling_steps
    return settings


def _made_with(recipe: Recipe, section: EvaluatorSection) -> dict[str, Any]:
    """Return the settings that an evaluator's metrics of the front's members depend on."""
    recover = recipe.front.recover
    return evaluated_with(recipe, section) | {
        "recover": recover and recover.model_dump(mode="json")
    }


def _path(folder: RunFolder) -> Path:
    return folder.evaluate / "metrics.json"


def _content(value: Any) -> dict[str, Any]:
    for metrics in as_object(value["metrics"]).values():
        as_object(metrics)
    return value


def _kept(content: Mapping[str, Any], recipe: Recipe) -> Kept:
    """Return a file's metrics of evaluators whose settings are unchanged."""
    before = content.get("made_with", [])
    valid = {
        key
        for section in recipe.front.evaluators
        if _made_with(recipe, section) in before
        for key in _keys(recipe, section)
    }
    return {
        id_: {name: value for name, value in found.items() if name in valid}
        for id_, found in content.get("metrics", {}).items()
    }


def _missing(recipe: Recipe, kept: Kept, arch: Architecture) -> list[int]:
    """Return the indices of the evaluators that have not evaluated an architecture."""
    known = kept.get(arch.id, {}).keys()
    sections = recipe.front.evaluators
    return [place for place, section in enumerate(sections) if not _keys(recipe, section) <= known]


def _keys(recipe: Recipe, section: EvaluatorSection) -> set[str]:
    return {key for metric in section.metrics for key in metric.keys(recipe.resolutions)}


def _write(folder: RunFolder, recipe: Recipe, kept: Kept) -> None:
    sections = recipe.front.evaluators
    write_json(
        _path(folder),
        {
            "made_with": [_made_with(recipe, section) for section in sections],
            "declared": {m.name: m.to_json() for section in sections for m in section.metrics},
            "metrics": dict(sorted(kept.items())),
        },
    )
