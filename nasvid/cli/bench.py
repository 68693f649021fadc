"""The commands that measure a recipe on this machine."""

from __future__ import annotations

from pathlib import Path

import click

from nasvid.cli.engine_option import engine_option, read_engine
from nasvid.cli.group import Verbs, as_json, print_json, recipe_options


@click.group(cls=Verbs)
def bench() -> None:
    """Measure the speed of this machine."""


@bench.command("train")
@recipe_options
@engine_option(repeatable=True)
@click.option(
    "--flops", metavar="N", help="Peak of a device, such as 990TFLOP/s [default: the card's]."
)
@click.option(
    "--steps", type=click.IntRange(1, 10**6), default=5, show_default=True, help="Timed steps."
)
@as_json
def train(
    recipe: Path,
    scale: str | None,
    sets: tuple[str, ...],
    engines: tuple[str, ...],
    flops: str | None,
    steps: int,
    as_json: bool,
) -> None:
    """Time a few training steps at each resolution; under torchrun, on all ranks."""
    from nasvid.planning.devices import parse_devices

    peak = parse_devices("1", flops=flops).bf16 if flops else None
    from nasvid.preflight import check_ready, load_recipe

    loaded = load_recipe(recipe, scale=scale, overrides=sets)
    check_ready(loaded)
    from nasvid.cli.tables import show_bench
    from nasvid.distributed.ranks import joined
    from nasvid.host.device import pick_device
    from nasvid.run.bench import bench_train, device_name

    chosen = [read_engine(text, loaded.recipe) for text in engines]
    chosen = chosen or [loaded.recipe.training.engine]
    with joined() as ranks:
        rows = list(bench_train(loaded, chosen, steps, ranks, peak))
    if not ranks.is_rank0:
        return
    where = device_name(pick_device(loaded.recipe.training.device))
    if as_json:
        print_json({"device": where, "rows": [row.to_json() for row in rows]})
        return
    show_bench(where, rows)
