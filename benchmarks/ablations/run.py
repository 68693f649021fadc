"""Trains a recipe's supernet in several ways, and compares the held-out losses of its subnets.

    python benchmarks/ablations/run.py recipes/sned_pixel.yaml runs/ablations --scale cpu
    python benchmarks/ablations/run.py recipes/sned_pixel.yaml runs/ablations --scale cpu \\
        --equal compute --only recipe --only cost_uniform --seeds 1

Each variant of `variants.yaml` is trained with each seed, in a folder OUT/equal-WHAT/VARIANT/SEED
that is a run's. With equal steps, all make as many as the recipe says; with equal compute, as many
as cost the training FLOPs of the first variant. Started again, it continues with what is missing.
OUT/equal-WHAT/results.json and results.md compare all runs that are finished.

The subnets are the same in every run: the smallest, the largest, and three between, evenly spread
over the logarithm of their MACs.
"""

from __future__ import annotations

import statistics
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Annotated, Any

import click
import yaml
from annotated_types import Len
from pydantic import TypeAdapter

from nasvid.distributed.ranks import Stop
from nasvid.distributed.signals import stop_requests
from nasvid.errors import Interrupted, UserError
from nasvid.host.files import atomic_path, write_json
from nasvid.host.lock import locked
from nasvid.host.reading import read_json, read_lines
from nasvid.host.words import quantity
from nasvid.metrics.loss import DenoisingLoss
from nasvid.preflight import LoadedRecipe, load_recipe
from nasvid.run.folder import RunFolder, begin
from nasvid.run.pipeline import BEFORE_SEARCH
from nasvid.run.session import Session
from nasvid.search.spread import spread
from nasvid.training.planner import Planner
from nasvid.training.speed import step_flops

VARIANTS = Path(__file__).with_name("variants.yaml")
SUBNETS = ("smallest", "25%", "50%", "75%", "largest")
"""By the logarithm of MACs, between the ends."""
ORDER = (0, 3, 2, 4, 1)
"""Their places in `spread`: both ends, the middle, then the quarters."""
VARIANTS_FORM = TypeAdapter(Annotated[dict[str, list[str]], Len(min_length=1)])
PLANNED = 200
"""Steps of a training that are planned to know what a step costs."""


@click.command()
@click.argument("recipe", type=click.Path(path_type=Path, exists=True))
@click.argument("out", type=click.Path(path_type=Path))
@click.option("--scale", help="One of the recipe's scales.")
@click.option("--set", "sets", multiple=True, metavar="KEY=VALUE", help="For all variants.")
@click.option(
    "--variants", type=click.Path(path_type=Path, exists=True, dir_okay=False), default=VARIANTS
)
@click.option("--only", multiple=True, metavar="NAME", help="A variant; repeatable [default: all].")
@click.option("--seeds", type=click.IntRange(1, 100), default=3, show_default=True)
@click.option("--equal", type=click.Choice(["steps", "compute"]), default="steps")
def main(
    recipe: Path,
    out: Path,
    scale: str | None,
    sets: tuple[str, ...],
    variants: Path,
    only: tuple[str, ...],
    seeds: int,
    equal: str,
) -> None:
    known = _variants(variants)
    if unknown := [name for name in only if name not in known]:
        raise click.UsageError(f"{variants} has no variant {unknown[0]}")
    folder = out / f"equal-{equal}"
    try:
        with stop_requests() as stop:
            for seed in range(seeds):
                load = partial(load_recipe, recipe, scale=scale)
                changed = {n: (*sets, *changes, f"seed={seed}") for n, changes in known.items()}
                for name, loaded in _loaded(load, changed, only or [*known], equal):
                    print(f"{name}, seed {seed}: {loaded.recipe.training.steps} steps")
                    _run(folder / name / str(seed), loaded, stop)
                    _compare(folder, list(known))
    except Interrupted as interrupted:
        click.echo(f"Interrupted by signal {interrupted.signal}; start it again", err=True)
        raise SystemExit(128 + interrupted.signal) from None
    except UserError as error:
        raise click.UsageError(str(error)) from None
    print((folder / "results.md").read_text(), end="")


def _variants(path: Path) -> dict[str, list[str]]:
    """Read the variants: name -> what it changes in the recipe."""
    try:
        return VARIANTS_FORM.validate_python(yaml.safe_load(path.read_text(encoding="utf-8")))
    except (ValueError, yaml.YAMLError) as error:
        reason = " ".join(str(error).split())
        raise click.UsageError(
            f"{path} must have names of variants, each with a list of KEY=VALUE ({reason:.300})"
        ) from None


def _loaded(
    load: Callable[..., LoadedRecipe],
    changed: Mapping[str, Sequence[str]],
    only: Sequence[str],
    equal: str,
) -> Iterator[tuple[str, LoadedRecipe]]:
    """Yield some variants' recipes, by name, with their numbers of steps.

    changed: each variant's overrides; the first has the budget of compute.
    """
    budget = None
    for name, overrides in changed.items():
        if name not in only and (equal == "steps" or budget is not None):
            continue
        loaded = load(overrides=overrides)
        if equal == "compute":
            cost = _flops_per_step(loaded)
            budget = budget or cost * loaded.recipe.training.steps
            steps = max(1, round(budget / cost))
            loaded = load(overrides=[*overrides, f"training.steps={steps}"])
        if name in only:
            yield name, loaded


def _flops_per_step(loaded: LoadedRecipe) -> float:
    planner = Planner.of(loaded.recipe, loaded.space)
    stride = max(1, planner.steps // PLANNED)
    planned = [planner.plan(step) for step in range(0, planner.steps, stride)]
    return statistics.fmean(step_flops(loaded.space, plan) for plan in planned)


def _run(path: Path, loaded: LoadedRecipe, stop: Stop) -> None:
    """Train in a run's folder, and write the losses of subnets to `ablation.json` in it."""
    with locked(path):
        session = Session(begin(path, loaded), loaded, stop=stop)
        for stage in BEFORE_SEARCH:
            stage.do(session)
        space, shapes = session.components.space, session.components.shapes
        five = spread(space, shapes[max(shapes)], len(SUBNETS))
        archs = [five[place] for place in ORDER]
        context = session.context(session.supernet)
        found = DenoisingLoss(DenoisingLoss.Config(), context).evaluate(archs)
        result = {
            "steps": loaded.recipe.training.steps,
            "flops": _flops(session.folder),
            "subnets": [arch.id for arch in archs],
            "losses": [metrics["loss"] for metrics in found],
        }
        write_json(path / "ablation.json", result)


def _flops(folder: RunFolder) -> int:
    """Return the training FLOPs that a run has logged; a step made twice counts once."""
    events, _ = read_lines(folder.events, lambda event: event)
    return sum({e["step"]: e.get("flops", 0) for e in events if e["event"] == "step"}.values())


def _compare(folder: Path, names: Sequence[str]) -> None:
    """Write the results of all finished runs as JSON and as a table."""
    found = {
        name: {
            path.parent.name: read_json(path, lambda value: value)
            for path in sorted(folder.glob(f"{name}/*/ablation.json"))
        }
        for name in names
    }
    found = {name: runs for name, runs in found.items() if runs}
    write_json(folder / "results.json", {"subnets": SUBNETS, "variants": found})
    heads = ("variant", "seeds", "steps", "FLOPs", *SUBNETS, "mean", "to the first")
    rows = [heads, ["---"] * len(heads)]
    first = next(iter(found.values()))
    rows += [_row(name, runs, first) for name, runs in found.items()]
    with atomic_path(folder / "results.md") as temporary:
        temporary.write_text("".join(f"| {' | '.join(row)} |\n" for row in rows))


def _row(name: str, runs: Mapping[str, Any], first: Mapping[str, Any]) -> list[str]:
    """Return a variant's means over its seeds and, behind ±, standard deviations.

    first: runs of the first variant; the last cell compares the mean of both on the same seeds.
    """
    losses = [run["losses"] for run in runs.values()]
    columns = [*zip(*losses, strict=True), [statistics.fmean(each) for each in losses]]
    shared = [seed for seed in runs if seed in first]
    ratios = [
        statistics.fmean(runs[seed]["losses"]) / statistics.fmean(first[seed]["losses"])
        for seed in shared
    ]
    return [
        name,
        str(len(runs)),
        f"{statistics.fmean(run['steps'] for run in runs.values()):.0f}",
        quantity(statistics.fmean(run["flops"] for run in runs.values())),
        *map(_spread, columns),
        f"{statistics.fmean(ratios) - 1:+.1%}" if ratios else "-",
    ]


def _spread(values: Sequence[float]) -> str:
    mean = f"{statistics.fmean(values):.4f}"
    return f"{mean} ± {statistics.stdev(values):.4f}" if len(values) > 1 else mean


if __name__ == "__main__":
    main()
