"""The stage that exports each member of the front to its own folder."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

from torch import nn

from nasvid.errors import Damaged
from nasvid.evaluation import Evaluation
from nasvid.evaluator import Metrics
from nasvid.export.subnet import SubnetInfo, export_subnet, read_info
from nasvid.host.files import remove, write_json
from nasvid.host.reading import as_list, check_sums, found_in
from nasvid.host.words import counted
from nasvid.run.members import members
from nasvid.run.own_weights import OwnWeights
from nasvid.run.session import Session


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
    session.display.say(f"extract: {counted(len(chosen), 'subnet')} in {folder}")


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
    try:
        check_sums(folder)
        return metrics in (None, read_info(folder).metrics)
    except Damaged as damaged:
        session.display.say(f"{damaged.path} is damaged ({damaged.reason}); exporting it again")
        return False


def export(session: Session, model: nn.Module, evaluation: Evaluation, target: Path) -> Path:
    """Write a model with its metrics in diffusers' layout."""
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
    return export_subnet(model, components.objective.make_scheduler(), info, target)
