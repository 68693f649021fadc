"""`nasvid extract` and `nasvid export`: subnets as folders, in any format."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import click

from nasvid.cli import complete
from nasvid.cli.group import (
    PATH,
    ResolutionType,
    before_finetuning,
    run_folder,
    trust_plugins,
)
from nasvid.export.formats import DIFFUSERS, NAMES
from nasvid.host.terminal import say

OPTIONS = (
    click.option(
        "--copy",
        is_flag=True,
        help="Copy the unchanged parts of a pipeline, also where they could be linked.",
    ),
    click.option(
        "--at",
        "resolutions",
        type=ResolutionType(),
        multiple=True,
        help="One of the run's resolutions, for pt2 and onnx. Repeatable [default: all].",
    ),
    click.option(
        "--format",
        "names",
        type=click.Choice(NAMES),
        multiple=True,
        default=[DIFFUSERS],
        help="A folder in diffusers' layout or, in place of it, a folder ID-FORMAT with one "
        "denoising step of torch.export (pt2) or ONNX. Repeatable [default: diffusers].",
    ),
)
"""What subnets are exported as."""


def _formats(command: Callable[..., Any]) -> Callable[..., Any]:
    for option in OPTIONS:
        command = option(command)
    return command


@click.command()
@run_folder
@click.argument("ids", nargs=-1, shell_complete=complete.subnets)
@_formats
@trust_plugins
def extract(run: Path, ids: tuple[str, ...], trust: bool, **formats: Any) -> None:
    """Export subnets into the run: the given IDs or the front."""
    _export(run, ids, None, formats, trust=trust)


@click.command()
@run_folder
@click.argument("subnet", metavar="ID", shell_complete=complete.subnets)
@click.option(
    "--out", type=PATH, required=True, help="Parent folder; the subnet goes to OUT/ID or ID-FORMAT."
)
@_formats
@before_finetuning
@trust_plugins
def export(
    run: Path, subnet: str, out: Path, before_finetuning: bool, trust: bool, **formats: Any
) -> None:
    """Export one subnet, as trained last, to another folder."""
    _export(run, (subnet,), out, formats, tuned=not before_finetuning, trust=trust)


def _export(
    run: Path,
    ids: tuple[str, ...],
    out: Path | None,
    formats: dict[str, Any],
    *,
    tuned: bool = False,
    trust: bool,
) -> None:
    from nasvid.run import verbs
    from nasvid.run.formats import Formats

    for path in verbs.export_subnets(run, ids, out, Formats(**formats), tuned=tuned, trust=trust):
        say(path)
