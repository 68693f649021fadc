"""`nasvid nni …`: the commands of this strategy."""

from __future__ import annotations

import re
from pathlib import Path

import click

from nasvid.cli.group import PATH, Verbs, trust_plugins
from nasvid.errors import UserError


@click.group(cls=Verbs)
def nni() -> None:
    """View searches that ran as NNI experiments."""


@nni.command()
@click.argument("run", type=PATH)
@click.option(
    "--port", type=click.IntRange(1, 65535), help="Port to listen on [default: the recipe's]."
)
@click.option("--host", help="Address to listen on [default: the recipe's].")
@trust_plugins
def view(run: Path, port: int | None, host: str | None, trust: bool) -> None:
    """Show the finished search of RUN in NNI's web UI, until Ctrl-C."""
    from nasvid.run import verbs

    given = {"port": port, "host": host}
    options = {key: value for key, value in given.items() if value is not None}
    try:
        verbs.show_search(run, options, trust=trust)
    except UserError as error:  # names what a recipe has; this command has options for it
        said = re.sub(r"search\.strategy\.(port|host)", r"--\1", str(error))
        raise UserError(said) from error
