"""Evaluating the front's members after the search: `evaluate/metrics.json`, a stage of its own."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from nasvid.architecture import Architecture
from nasvid.distributed.ranks import Stop
from nasvid.errors import Interrupted, UserError
from nasvid.evaluator import Context, EvaluatorSection, Metrics, evaluate_one
from nasvid.host.device import pick_device
from nasvid.host.display import Display
from nasvid.host.files import write_json
from nasvid.recipe.sections import Recipe
from nasvid.run.folder import Run
from nasvid.search.front import read_front

Kept = dict[str, dict[str, float | None]]
"""Id of an architecture -> its metrics; null where one is not finite."""


def evaluate(run: Run, context: Callable[[], Context], display: Display, stop: Stop) -> None:
    """Evaluate each member of the front as `front.evaluators` says, where it is not yet.

    What was evaluated with the same settings is kept, evaluator by evaluator and member by member.

    context: makes what evaluators evaluate with; called only where something is missing.

    Raises:
        Interrupted: what was evaluated is kept.
    """
    kept = _kept(run)
    if _path(run).exists():
        _write(run, kept)
    archs = [member.evaluation.arch for member in read_front(run.front).members]
    work = [arch for arch in archs if _missing(run, kept, arch)]
    if work:
        _evaluate(run, kept, work, context(), display, stop)
    if run.recipe.front.evaluators:
        done = f"{len(work)} of {len(archs)} members of the front" if work else "nothing is left"
        display.say(f"evaluate: {done}")


def _evaluate(
    run: Run,
    kept: Kept,
    work: Sequence[Architecture],
    context: Context,
    display: Display,
    stop: Stop,
) -> None:
    evaluators = [section.make(context) for section in run.recipe.front.evaluators]
    with run.stage("evaluate"), display.track("evaluate", len(work), "subnets") as tracker:
        for arch in work:
            for number in _missing(run, kept, arch):
                found = evaluate_one(evaluators[number], arch)
                kept[arch.id] = kept.get(arch.id, {}) | {
                    name: value if math.isfinite(value) else None for name, value in found.items()
                }
                _write(run, kept)
            tracker.advance(arch.id)
            if (signal := stop()) is not None:
                raise Interrupted(signal, "what was evaluated is kept")


def metrics(run: Run, id_: str) -> Metrics:
    """Return what an architecture scored after the search; {} where it was not evaluated."""
    found = _read(_path(run)).get("metrics", {}).get(id_, {})
    return {name: value for name, value in found.items() if value is not None}


def evaluated_with(recipe: Recipe, section: EvaluatorSection) -> dict[str, Any]:
    """Return the settings that an evaluator's metrics of trained weights depend on."""
    settings = {
        **json.loads(section.model_dump_json()),
        "clips": recipe.search.clips,
        "checkpoint": recipe.search.checkpoint,
        "device": pick_device(recipe.training.device).type,
    }
    if section.cls.makes_videos:
        settings["guidance_scale"] = recipe.front.guidance_scale
        settings["sampling_steps"] = recipe.front.sampling_steps
    return settings


def _path(run: Run) -> Path:
    return run.folder / "evaluate" / "metrics.json"


def _read(path: Path) -> dict[str, Any]:
    try:
        return json.loads(path.read_text()) if path.exists() else {}
    except ValueError as error:
        raise UserError(f"{path} is not JSON ({error}): delete it to evaluate again") from error


def _kept(run: Run) -> Kept:
    """Return what the file holds of evaluators whose settings are still the same."""
    content = _read(_path(run))
    before = content.get("made_with", [])
    valid = {
        key
        for section in run.recipe.front.evaluators
        if evaluated_with(run.recipe, section) in before
        for key in _keys(run, section)
    }
    return {
        id_: {name: value for name, value in found.items() if name in valid}
        for id_, found in content.get("metrics", {}).items()
    }


def _missing(run: Run, kept: Kept, arch: Architecture) -> list[int]:
    """Return the places of the evaluators that have not evaluated an architecture."""
    known = kept.get(arch.id, {}).keys()
    sections = run.recipe.front.evaluators
    return [place for place, section in enumerate(sections) if not _keys(run, section) <= known]


def _keys(run: Run, section: EvaluatorSection) -> set[str]:
    return {key for metric in section.metrics for key in metric.keys(run.recipe.resolutions)}


def _write(run: Run, kept: Kept) -> None:
    sections = run.recipe.front.evaluators
    write_json(
        _path(run),
        {
            "made_with": [evaluated_with(run.recipe, section) for section in sections],
            "declared": {m.name: m.to_json() for section in sections for m in section.metrics},
            "metrics": kept,
        },
    )
