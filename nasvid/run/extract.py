"""The stage that exports each member of the front to its own folder."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

from torch import nn

from nasvid.diffusion.stock import StockPipeline, Unfit
from nasvid.errors import Damaged
from nasvid.evaluation import Evaluation
from nasvid.evaluator import Guidance, Metrics
from nasvid.export.subnet import SubnetInfo, Whole, export_subnet, read_info
from nasvid.export.whole import WEIGHTS
from nasvid.host.files import remove, write_json
from nasvid.host.reading import as_list, check_sums, found_in, note_hashes, recall_hashes
from nasvid.host.words import counted
from nasvid.run.members import members
from nasvid.run.own_weights import OwnWeights
from nasvid.run.parts import check_unchanged
from nasvid.run.session import Session

HASHES = "hashes.json"
"""Checksums of the files that exports share with the source of their pipeline."""
PROMPT = "a cat runs over the grass"
"""What the card's video shows, unless the recipe has prompts."""


def extract(session: Session) -> None:
    """Export each member of the front to `subnets/ID`, unless it is there with its metrics.

    Exports of architectures that are no longer members are removed.
    """
    folder = session.folder.subnets
    chosen = members(session.folder)
    remove_former(session, folder, [each.arch.id for each in chosen])
    missing = [
        each for each in chosen if not is_exported(session, folder / each.arch.id, each.metrics)
    ]
    if missing:
        weights = OwnWeights(session)
        with session.folder.logged("extract"):
            for each in missing:
                model = weights.supernet(each.arch).extract(each.arch)
                export(session, model, each, folder / each.arch.id)
    pipeline = session.components.exported
    alone = f"; denoisers alone: {pipeline}" if isinstance(pipeline, Unfit) else ""
    session.display.say(f"extract: {counted(len(chosen), 'subnet')} in {folder}{alone}")


def remove_former(session: Session, folder: Path, ids: Sequence[str]) -> None:
    """Remove the exports in a folder that were chosen before and are none of these; note these.

    What `nasvid extract RUN ID` has put there beside them stays.
    """
    path = folder / "chosen.json"
    before = session.made_again(path, as_list) or []
    there = {entry.name for entry in found_in(folder, "*")}  # the note may name ".."
    former = [str(each) for each in before if each not in ids and str(each) in there]
    for name in former:
        remove(folder / name)
    if former:
        session.display.say(f"removed from {folder}, no longer chosen: {', '.join(former)}")
    if before != ids:
        write_json(path, ids)


def is_exported(session: Session, folder: Path, metrics: Metrics | None = None) -> bool:
    """Return whether a folder holds an export, intact, and with these metrics if any are given."""
    if not folder.exists():
        return False
    recall_hashes(folder.parent / HASHES)
    try:
        check_sums(folder)
        return metrics in (None, read_info(folder).metrics)
    except Damaged as damaged:
        session.display.say(f"{damaged.path} is damaged ({damaged.reason}); exporting it again")
        return False


def export(
    session: Session,
    model: nn.Module,
    evaluation: Evaluation,
    target: Path,
    *,
    copy: bool = False,
) -> Path:
    """Write a model with its metrics in diffusers' layout, in its whole pipeline if there is one.

    copy: copy all files of the pipeline, also where they could be linked.
    """
    recipe, components = session.recipe, session.components
    info = SubnetInfo(
        arch=evaluation.arch,
        space=json.loads(recipe.space.model_dump_json()),
        domain=components.space.domain,
        text=json.loads(recipe.text.model_dump_json()),
        frames=recipe.data.frames,
        fps=recipe.data.fps,
        resolutions=tuple(components.shapes),
        context_len=recipe.data.context_len,
        metrics=evaluation.metrics,
    )
    scheduler, whole = components.objective.make_scheduler(), _whole(session, copy=copy)
    module = components.space.model_module
    export_subnet(model, scheduler, info, target, whole, model_module=module)
    if isinstance(whole, Whole) and target.is_relative_to(session.folder.path):
        weights = [target / name for name, path in whole.files if path.suffix in WEIGHTS]
        if weights:
            note_hashes(target.parent / HASHES, weights)
    return target


def _whole(session: Session, *, copy: bool) -> Whole | Unfit:
    """Return the pipeline that models are exported in, and the video on their cards."""
    recipe, pipeline = session.recipe, session.components.exported
    if isinstance(pipeline, Unfit):
        return pipeline
    front, shapes = recipe.front, session.components.shapes
    guidance = Guidance(front.guidance_scale, front.sampling_steps)
    shape = shapes[max(shapes)]
    if isinstance(pipeline, StockPipeline):
        check_unchanged(session.folder, pipeline)
        call = pipeline.call(shape, guidance, recipe.data.fps)
    else:
        call = pipeline.call(shape, guidance)
    prompt = next(iter(front.prompts or ()), PROMPT)
    return Whole(pipeline=pipeline, copy=copy, prompt=prompt, call=call)
