"""The command that drafts a recipe from a pipeline."""

from __future__ import annotations

import shlex
from pathlib import Path

import click

from nasvid.cli.group import PATH, FiniteRange
from nasvid.errors import UserError
from nasvid.host.terminal import say


@click.command()
@click.argument("pipeline", metavar="FOLDER_OR_NAME")
@click.option(
    "--keep",
    type=FiniteRange(0.05, 1, max_open=True),
    default=0.5,
    show_default=True,
    help="Fraction of the model's parameters that the smallest subnet has at least.",
)
@click.option("--out", type=PATH, default="recipe.yaml", show_default=True, help="Recipe to write.")
@click.option(
    "--plugin",
    "plugins",
    type=PATH,
    multiple=True,
    help="Python file with plug-ins, such as a space of your own for the model. Repeatable.",
)
@click.option("--force", is_flag=True, help="Replace the recipe if there is one.")
def init(pipeline: str, keep: float, out: Path, plugins: tuple[Path, ...], force: bool) -> None:
    """Draft a recipe that makes a pipeline's model smaller.

    FOLDER_OR_NAME is a pipeline of diffusers: a folder, or a name on a hub, of which only the
    configs are fetched.
    """
    if out.exists() and not force:
        raise UserError(f"{out} exists; name another file with --out, or replace it with --force")
    from nasvid.draft import Wanted, draft

    found = draft(Wanted(given=pipeline, keep=keep, out=out, plugins=plugins))
    say(f"{out}: {found}")
    named = shlex.quote(str(out))
    say(f"Try every stage with: nasvid run {named}")
    say(f"See what a real run needs with: nasvid plan {named} --scale gpu --devices H100")
