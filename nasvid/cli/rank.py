"""The command that compares a run's subnets with the same architectures trained alone."""

from __future__ import annotations

import sys
from contextlib import nullcontext, redirect_stdout
from pathlib import Path

import click

from nasvid.cli.group import as_json, print_json, run_folder, trust_plugins


@click.command()
@run_folder
@click.option(
    "--n",
    type=click.IntRange(2, 1000),
    default=12,
    show_default=True,
    help="Architectures; a larger number keeps those of a smaller one.",
)
@click.option(
    "--steps",
    type=click.IntRange(1, 10**8),
    help="Steps of each training [default: as many as the supernet's].",
)
@trust_plugins
@as_json
def rank(run: Path, n: int, steps: int | None, trust: bool, as_json: bool) -> None:
    """Train some subnets alone: does the supernet rank them right?

    Under torchrun, on all ranks.
    """
    from nasvid.run import pipeline

    with redirect_stdout(sys.stderr) if as_json else nullcontext():
        found = pipeline.rank_again(run, n, steps, trust=trust)
    if found is None:
        return
    if as_json:
        print_json(found)
        return
    from nasvid.cli.tables import show_ranking

    show_ranking(found)
