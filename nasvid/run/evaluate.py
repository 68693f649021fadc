"""The stage that evaluates the front's members after the search: `evaluate/metrics.json`."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from nasvid.architecture import Architecture
from nasvid.errors import Interrupted
from nasvid.evaluator import EvaluatorSection, Metrics, evaluate_one
from nasvid.host.device import pick_device
from nasvid.host.files import write_json
from nasvid.host.reading import as_object, read_json
from nasvid.recipe.sections import Recipe
from nasvid.run.folder import RunFolder
from nasvid.run.own_weights import OwnWeights
from nasvid.run.session import Session
from nasvid.search.front import read_front

Kept = dict[str, dict[str, float | None]]
"""Id of an architecture -> its metrics; null if not finite."""


def evaluate(session: Session) -> None:
    """Evaluate each member of the front with `front.evaluators`, unless already done.

    Results with the same settings are kept, evaluator by evaluator and member by member.

    Raises:
        Interrupted: by a signal; finished evaluations are kept.
    """
    recipe, folder = session.recipe, session.folder
    before = session.made_again(_path(folder), _content)
    kept = _kept(before or {}, recipe)
    if before is not None:
        _write(folder, recipe, kept)
    archs = [member.evaluation.arch for member in read_front(folder.final_front).members]
    work = [arch for arch in archs if _missing(recipe, kept, arch)]
    if work:
        _evaluate(session, kept, work)
    if recipe.front.evaluators:
        done = f"{len(work)} of {len(archs)} chosen subnets" if work else "nothing to do"
        session.display.say(f"evaluate: {done}")


def _evaluate(session: Session, kept: Kept, work: Sequence[Architecture]) -> None:
    recipe, folder = session.recipe, session.folder
    weights = OwnWeights(session)
    context = session.context(weights.supernet(work[0]))
    evaluators = [section.make(context) for section in recipe.front.evaluators]
    with (
        folder.logged("evaluate"),
        session.display.track("evaluate", len(work), "subnets") as tracker,
    ):
        for arch in work:
            weights.supernet(arch)
            for number in _missing(recipe, kept, arch):
                found = evaluate_one(evaluators[number], arch)
                kept[arch.id] = kept.get(arch.id, {}) | {
                    name: float(value) if math.isfinite(value) else None
                    for name, value in found.items()
                }
                _write(folder, recipe, kept)
                if broken := [name for name, value in found.items() if not math.isfinite(value)]:
                    what = f"not a finite number for {arch.id}: {', '.join(broken)}"
                    session.display.say(f"evaluate: {what}; the report leaves it out")
            tracker.advance(arch.id)
            if (signal := session.stop()) is not None:
                raise Interrupted(signal, "finished evaluations are kept")


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
            "metrics": kept,
        },
    )
