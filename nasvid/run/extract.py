"""The stage that exports each member of the front to its own folder."""

from __future__ import annotations

import json
from pathlib import Path

from torch import nn

from nasvid.evaluation import Evaluation
from nasvid.export.subnet import INFO, SubnetInfo, export_subnet, read_info
from nasvid.host.words import counted
from nasvid.run.members import members
from nasvid.run.session import Session


def extract(session: Session) -> None:
    """Export each member of the front to `subnets/ID`, unless it is there with its metrics."""
    folder = session.folder.subnets
    chosen = members(session.folder)
    missing = [each for each in chosen if not _is_there(folder / each.arch.id, each)]
    if missing:
        with session.folder.logged("extract"):
            for each in missing:
                model = session.supernet.extract(each.arch)
                export(session, model, each, folder / each.arch.id)
    session.display.say(f"extract: {counted(len(chosen), 'subnet')} in {folder}")


def _is_there(folder: Path, evaluation: Evaluation) -> bool:
    return (folder / INFO).exists() and read_info(folder).metrics == evaluation.metrics


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
