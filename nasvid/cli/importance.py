"""The command that measures what blocks and units of a trained supernet are worth."""

from __future__ import annotations

import sys
from contextlib import nullcontext, redirect_stdout
from pathlib import Path

import click

from nasvid.cli.group import as_json, print_json, run_folder, trust_plugins


@click.command()
@run_folder
@trust_plugins
@as_json
def importance(run: Path, trust: bool, as_json: bool) -> None:
    """Measure what each block and unit of a trained run is worth."""
    from nasvid.run import pipeline

    with redirect_stdout(sys.stderr) if as_json else nullcontext():
        found = pipeline.importance_again(run, trust=trust)
    if as_json:
        print_json(found)
        return
    from nasvid.cli.tables import show_importance

    show_importance(found)
