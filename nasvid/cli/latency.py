"""The commands that make latency known before an architecture is evaluated."""

from __future__ import annotations

import json
import shlex
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from nasvid.cli.group import PATH, Verbs, as_json, print_json, scale, settings, trust_plugins
from nasvid.host.terminal import say

if TYPE_CHECKING:
    from nasvid.recipe.sections import SearchSection


def _target(command: Callable[..., Any]) -> Callable[..., Any]:
    """Give a command a recipe or a run, and the options that change it."""
    argument = click.argument("recipe", type=PATH, metavar="RECIPE_OR_RUN")
    for option in (trust_plugins, settings, scale, argument):
        command = option(command)
    return command


rounds_option = click.option(
    "--rounds",
    type=click.IntRange(1, 10**4),
    help="Times that each network is timed anew, in turn with all others [default: 10, check: 5].",
)


@click.group(cls=Verbs)
def latency() -> None:
    """Predict latency and memory, from a table of timed blocks."""


@latency.command("build")
@_target
@click.option(
    "--out", type=PATH, help="File to write [default: runs/latency/NAME-SCALE-DEVICE-….json]."
)
@click.option(
    "--precision",
    type=click.Choice(["auto", "fp32", "bf16", "fp16"]),
    help="Of the passes [default: training.precision].",
)
@click.option(
    "--batch",
    type=click.IntRange(1, 4096),
    default=1,
    show_default=True,
    help="Clips of a forward pass.",
)
@click.option("--compile", "compiled", is_flag=True, help="Compile each block (torch.compile).")
@rounds_option
def build(recipe: Path, scale: str | None, sets: tuple[str, ...], trust: bool, **how: Any) -> None:
    """Time every variant of every block here; write the table."""
    from nasvid.run.latency import Target, build_table

    target = Target.of(recipe, scale=scale, overrides=sets, trust=trust)
    path = build_table(target, how.pop("out"), **how)
    say(path)
    searched = target.loaded.recipe.search
    found = {
        "evaluators": _with_table(searched, path),
        "constraints": [*searched.constraints, "latency_ms <= 60%"],
    }
    changes = [f"search.{key}={json.dumps(value)}" for key, value in found.items()]
    say(f"Search with it: {' '.join(f'--set {shlex.quote(each)}' for each in changes)}")


def _with_table(searched: SearchSection, table: Path) -> list[dict[str, Any]]:
    """Return the evaluators of a search with the table, as they are written."""
    others = [
        {"name": each.name, **each.config.model_dump(mode="json", exclude_defaults=True)}
        for each in searched.evaluators
        if each.name != "cost"
    ]
    return [{"name": "cost", "latency_table": str(table)}, *others]


@latency.command("check")
@click.argument("table", type=PATH)
@_target
@click.option(
    "--n", type=click.IntRange(2, 10**4), default=30, show_default=True, help="Architectures."
)
@click.option("--seed", type=click.IntRange(0, 2**63 - 1), default=0, show_default=True)
@rounds_option
@as_json
def check(
    table: Path,
    recipe: Path,
    scale: str | None,
    sets: tuple[str, ...],
    trust: bool,
    n: int,
    seed: int,
    rounds: int | None,
    as_json: bool,
) -> None:
    """Time architectures that TABLE was not built from; print its error."""
    from nasvid.run.latency import Target, check_table

    target = Target.of(recipe, scale=scale, overrides=sets, trust=trust)
    report = check_table(table, target, n, rounds, seed)
    if as_json:
        print_json(report.to_json())
        return
    from nasvid.cli.latency_tables import show_check

    show_check(report)
