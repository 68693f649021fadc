"""Subnets of a run: found by id, and exported as folders."""

from __future__ import annotations

import json
from difflib import get_close_matches
from pathlib import Path

from torch import nn

from nasvid.architecture import Architecture
from nasvid.errors import UserError
from nasvid.evaluator import Metrics
from nasvid.export.subnet import INFO, SubnetInfo, export_subnet, read_info
from nasvid.host.display import Display
from nasvid.run import evaluate
from nasvid.run.folder import Run
from nasvid.run.held_out import trained_supernet
from nasvid.run.parts import Parts
from nasvid.search.front import read_front
from nasvid.search.record import read_record
from nasvid.supernet import Supernet


def trained(run: Run) -> tuple[Parts, Supernet]:
    """Return a run's parts and its trained supernet, in eval mode."""
    parts = Parts.of(run.recipe, run.folder)
    return parts, trained_supernet(run.recipe, parts, run.checkpoints)


def members(run: Run) -> dict[str, tuple[Architecture, Metrics]]:
    """Return the members of the front, ascending in cost, by id, with all their metrics.

    What was evaluated after the search is among them, and stands in place of the search's own.

    Raises:
        UserError: the run has not been searched.
    """
    if not run.front.exists():
        raise UserError(f"{run.folder} has no front yet: nasvid search {run.folder}")
    found = [member.evaluation for member in read_front(run.front).members]
    return {e.arch.id: (e.arch, e.metrics | evaluate.metrics(run, e.arch.id)) for e in found}


def find(run: Run, id_: str) -> tuple[Architecture, Metrics]:
    """Return a subnet by its id, or the beginning of one: of the front, or any that was evaluated.

    `largest` is the whole supernet, and `smallest` what all subnets share; evaluated or not.

    Raises:
        UserError: there is none, or more than one; the message has the nearest.
    """
    known = {each.arch.id: (each.arch, each.metrics) for each in read_record(run.record)}
    known |= members(run) if run.front.exists() else {}
    if id_ in ("largest", "smallest"):
        end = getattr(run.recipe.make_space(), id_)
        return known.get(end.id, (end, {}))
    matches = [name for name in known if name.startswith(id_)] if id_ else []
    if len(matches) == 1:
        return known[matches[0]]
    if matches:
        raise UserError(f"subnet '{id_}' is ambiguous: {', '.join(sorted(matches)[:5])}")
    near = get_close_matches(id_, known, n=1, cutoff=0.3)
    hint = f"; nearest: '{near[0]}'" if near else ""
    raise UserError(f"{run.folder} has evaluated no subnet '{id_}'{hint}")


def extract(run: Run, display: Display) -> None:
    """Export each member of the front to `subnets/ID`, where it is not there as it is now."""
    chosen = members(run)
    missing = {
        id_: (arch, metrics)
        for id_, (arch, metrics) in chosen.items()
        if not (run.subnet(id_) / INFO).exists() or read_info(run.subnet(id_)).metrics != metrics
    }
    if missing:
        parts, supernet = trained(run)
        with run.stage("extract"):
            for arch, metrics in missing.values():
                export(run, parts, supernet.extract(arch), arch, metrics, run.subnet(arch.id))
    display.say(f"extract: {len(chosen)} subnets in {run.folder / 'subnets'}")


def export(
    run: Run, parts: Parts, model: nn.Module, arch: Architecture, metrics: Metrics, target: Path
) -> Path:
    """Write one subnet, `model`, to a folder in the layout of diffusers."""
    recipe = run.recipe
    info = SubnetInfo(
        arch=arch,
        space=json.loads(recipe.space.model_dump_json()),
        domain=parts.space.domain,
        text=json.loads(recipe.text.model_dump_json()),
        frames=recipe.data.frames,
        fps=recipe.data.fps,
        resolutions=tuple(parts.shapes),
        context_len=recipe.data.context_len,
        metrics=metrics,
    )
    return export_subnet(model, parts.objective.make_scheduler(), info, target)
