"""The command that shows what a recipe needs."""

from __future__ import annotations

from pathlib import Path

import click

from nasvid.cli.engine_option import engine_option, read_engine
from nasvid.cli.group import FiniteRange, as_json, print_json, recipe_options
from nasvid.errors import UserError
from nasvid.host.terminal import say


@click.command()
@recipe_options
@click.option("--devices", metavar="NxWHAT", help="8xH100, 8x80GB, or 8 [default: this machine].")
@engine_option(repeatable=False)
@click.option(
    "--flops", metavar="N", help="Peak of a device, such as 990TFLOP/s [default: the card's]."
)
@click.option("--bandwidth", metavar="N", help="Bandwidth of a device, such as 450GB/s.")
@click.option(
    "--utilization",
    type=FiniteRange(0, 1, min_open=True),
    help="Share of the peak reached, from 0 to 1.",
)
@click.option(
    "--engine-config", is_flag=True, help="Print the configuration passed to the engine's library."
)
@as_json
def plan(
    recipe: Path,
    scale: str | None,
    sets: tuple[str, ...],
    devices: str | None,
    engine: str | None,
    flops: str | None,
    bandwidth: str | None,
    utilization: float | None,
    engine_config: bool,
    as_json: bool,
) -> None:
    """Show what a recipe will cost before running it."""
    from nasvid.planning.devices import parse_devices

    if devices is None and (flops or bandwidth):
        raise UserError(
            "--flops and --bandwidth describe devices; add --devices, for example 8x80GB"
        )
    described = parse_devices(devices, flops=flops, bandwidth=bandwidth) if devices else None
    from nasvid.preflight import check_named, load_recipe

    loaded = load_recipe(recipe, scale=scale, overrides=sets)
    check_named(loaded)
    from nasvid.cli.plan_tables import show_plan
    from nasvid.planning.plan import make_plan
    from nasvid.planning.speed import UTILIZATION
    from nasvid.training.engine import engine_of

    chosen = loaded.recipe.training.engine
    if engine is not None:
        chosen = read_engine(engine, loaded.recipe)
    if engine_config:
        print_json(engine_of(chosen).library_config(loaded.recipe.training))
        return
    planned = make_plan(loaded.recipe, described, chosen, utilization or UTILIZATION)
    if as_json:
        print_json({"scale": loaded.scale} | planned.to_json())
        return
    if loaded.why:
        say(loaded.why)
    show_plan(planned)
