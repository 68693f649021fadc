"""What the shell completes beside commands, options and files: scales, plug-ins, subnets' ids.

A shell waits for the answer and shows no error: what cannot be read has no completions.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable
from pathlib import Path

import click


def scales(ctx: click.Context, param: click.Parameter, incomplete: str) -> list[str]:
    """Return the scales of the recipe that stands before the cursor, and `auto`."""
    del param
    from nasvid.errors import UserError
    from nasvid.recipe.nodes import read

    recipe = _argument(ctx, "recipe")
    try:
        found = read(recipe).plain().get("scales") if recipe else None
    except UserError:
        found = None
    return _starting(incomplete, ["auto", *(found if isinstance(found, dict) else ())])


def kinds(ctx: click.Context, param: click.Parameter, incomplete: str) -> list[str]:
    """Return the kinds of plug-ins."""
    del ctx, param
    from nasvid.plugins import KINDS

    return _starting(incomplete, KINDS)


def plugins(ctx: click.Context, param: click.Parameter, incomplete: str) -> list[str]:
    """Return the installed plug-ins by name, or by KIND/NAME once a kind is typed."""
    del ctx, param
    from nasvid.plugins import KINDS, available

    by_kind = [(kind, name) for kind in KINDS for name in available(kind)]
    if "/" in incomplete:
        return _starting(incomplete, [f"{kind}/{name}" for kind, name in by_kind])
    return _starting(incomplete, [name for _, name in by_kind])


def subnets(ctx: click.Context, param: click.Parameter, incomplete: str) -> list[str]:
    """Return the ids of a run's subnets: its front's, or all evaluated if none of those matches."""
    del param
    search = (_argument(ctx, "run") or Path()) / "search"
    front = _starting(incomplete, _ids(search / "front.json"))
    return front or _starting(incomplete, _ids(search / "record.jsonl"))


def _argument(ctx: click.Context, name: str) -> Path | None:
    """Return an argument of a command; click leaves them unnamed after an unfinished option."""
    names = [each.name for each in ctx.command.params if isinstance(each, click.Argument)]
    unnamed = dict(zip(names, ctx.args, strict=False))
    typed = ctx.params.get(name) or unnamed.get(name)
    return Path(typed) if typed else None


def _ids(path: Path) -> list[str]:
    try:
        text = path.read_text()
    except (OSError, ValueError):
        return []
    return [json.loads(each) for each in re.findall(r'"id": ("\w+")', text)]


def _starting(incomplete: str, words: Iterable[str]) -> list[str]:
    return sorted({word for word in words if word.startswith(incomplete)})
