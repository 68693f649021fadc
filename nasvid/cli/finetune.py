"""The command that fine-tunes subnets of a run."""

from __future__ import annotations

from pathlib import Path

import click

from nasvid.cli import complete
from nasvid.cli.group import run_folder, settings, trust_plugins
from nasvid.host.terminal import say


@click.command()
@run_folder
@click.argument("ids", nargs=-1, shell_complete=complete.subnets)
@settings
@trust_plugins
def finetune(run: Path, ids: tuple[str, ...], sets: tuple[str, ...], trust: bool) -> None:
    """Train subnets further: the given IDs, or some of the front.

    Under torchrun, on all ranks. Settings are those of `finetune` in the recipe.
    """
    from nasvid.run import pipeline

    for path in pipeline.finetune_again(run, ids, sets, trust=trust):
        say(path)
