"""How long the report and a resumed search take after a long run.

    python benchmarks/long_run.py FOLDER
    python benchmarks/long_run.py FOLDER --steps 400000 --evaluations 10000 --strategy random

FOLDER becomes a run's folder, written by what writes real ones: the log of the training, and the
search's record and front. Only the losses are made up, and no model is trained. A second call with
the same FOLDER measures what is there.
"""

from __future__ import annotations

import math
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import click
import numpy as np
import torch
from paired import machine

from nasvid import Config
from nasvid.architecture import Architecture
from nasvid.data.paths import SPLITS
from nasvid.evaluator import Context, Evaluator, Guidance, Metric, Metrics
from nasvid.host.display import Display
from nasvid.host.files import write_json
from nasvid.metrics.cost import Cost, CostConfig
from nasvid.preflight import LoadedRecipe, load_recipe
from nasvid.run.folder import RunFolder, begin
from nasvid.run.train import described
from nasvid.search.driver import SearchResult, search
from nasvid.search.evaluating import Evaluating
from nasvid.search.front import write_front
from nasvid.search.goals import Goals
from nasvid.step_plan import Role
from nasvid.strategy import RunContext, StrategySection
from nasvid.supernet import Supernet
from nasvid.training.events import GroupLosses, Speed, StepEvent
from nasvid.training.step_lines import StepLines

MEASURE = """
import resource, subprocess, sys, time
started = time.perf_counter()
subprocess.run(sys.argv[1:], check=True, stdout=subprocess.DEVNULL)
used = resource.getrusage(resource.RUSAGE_CHILDREN)
print(time.perf_counter() - started, used.ru_utime + used.ru_stime, 1024 * used.ru_maxrss)
"""
"""Run by a small process of its own: what a process forks counts its memory as theirs."""
RECIPE = Path(__file__).parents[1] / "recipes" / "sned_pixel.yaml"


class Formula(Evaluator):
    """A loss by formula: less for a larger architecture, with what each has of its own."""

    metrics = (Metric("loss", "weighted mean squared error", reference=1.0),)

    def evaluate(self, architectures: Sequence[Architecture]) -> list[Metrics]:
        """Return `loss` and `loss@R`."""
        return [self._one(arch) for arch in architectures]

    def _one(self, arch: Architecture) -> Metrics:
        space, shapes = self.context.supernet.space, self.context.shapes
        options = space.encode(arch) / [max(len(c.options) - 1, 1) for c in space.choices]
        own = np.random.default_rng(int(arch.id, 16)).random(len(shapes))
        losses = 0.05 + 0.1 * (1 - options.mean()) ** 2 + 0.01 * own
        (metric,) = self.metrics
        return metric.over(dict(zip(shapes, losses.tolist(), strict=True)))


def context_of(loaded: LoadedRecipe) -> Context:
    """Return a context without weights or clips."""
    with torch.device("meta"):
        supernet = Supernet(loaded.space)
    return Context(
        supernet=supernet,
        shapes=loaded.recipe.shapes(),
        batches={},
        objective=loaded.recipe.objective.make(),
        device=torch.device("meta"),
        text=_nothing,
        guidance=Guidance(),
        fps=8.0,
        captions=(),
        clips=_nothing,
        make_videos=_nothing,
        track=Display().track,
    )


def _nothing(*given: Any, **named: Any) -> Any:
    raise AssertionError(given, named)


def write_training(folder: RunFolder, loaded: LoadedRecipe, steps: int, *, each: bool) -> None:
    """Write the log of a training. each: with a line for every step, as earlier versions did."""
    rng, settings = np.random.default_rng(0), loaded.recipe.training
    lines = StepLines("step", settings.checkpoint_every)
    subnet = loaded.space.largest.id
    with folder.logged("train"), folder.events.open("a") as file:
        del file  # is there
        for step in range(steps):
            resolution = list(loaded.recipe.shapes())[
                int(rng.integers(len(loaded.recipe.shapes())))
            ]
            floor = 0.06 + 0.9 * math.exp(-8 * step / steps)
            role = (Role.RANDOM, Role.LARGEST)[step % 10 == 0]
            loss = floor * math.exp(0.12 * rng.normal())
            bad = step % 5000 == 4999
            event = StepEvent(
                step=step,
                groups=(GroupLosses(step, resolution, 64, {role: loss}),),
                subnets=(subnet,),
                loss=None if bad else loss,
                losses={} if bad else {role: loss},
                grad_norm=None if bad else 0.4 + floor * rng.random(),
                learning_rate=3e-4 * (1 - step / steps),
                clips=64,
                skipped=bad,
                speed=Speed(
                    seconds=0.8 + 0.1 * rng.random(),
                    waited=0.01 * rng.random(),
                    ranks=8,
                    flops=1234567890123456,
                    utilization=0.41,
                    memory=60_000_000_000,
                ),
            )
            for line in [event.to_json()] if each else lines.add(event):
                folder.log(line)
        for line in lines.rest() if not each else []:
            folder.log(line)


def run_search(
    folder: RunFolder, loaded: LoadedRecipe, context: Context, strategy: str, budget: int
) -> SearchResult:
    """Search, or resume the search."""
    section = loaded.recipe.search
    evaluators = [Cost(CostConfig(), context), Formula(Config(), context)]
    goals = Goals.of(
        loaded.space, loaded.recipe.shapes(), evaluators, section.objectives, ["params <= 95%"]
    )
    run = RunContext(loaded.recipe.name, folder.search / strategy.partition(":")[0], print)
    name, _, predictor = strategy.partition(":")
    options = {"predictor": predictor} if predictor else {}
    made = StrategySection.model_validate({"name": name, **options}).make(goals.problem(0, run))
    return search(
        goals,
        made,
        Evaluating(evaluators).alone,
        budget=budget,
        batch=section.batch,
        record_path=folder.record,
    )


def write_search(folder: RunFolder, loaded: LoadedRecipe, strategy: str, budget: int) -> None:
    """Write what a search leaves."""
    with folder.logged("search"):
        result = run_search(folder, loaded, context_of(loaded), strategy, budget)
    content = {
        "objectives": list(result.goals.objectives),
        "constraints": ["params <= 95%"],
        "metrics": {
            metric.name: metric.to_json() for metric in dict.fromkeys(result.goals.metrics.values())
        },
    }
    write_json(folder.search / "goals.json", content)
    write_json(
        folder.search / "mean_loss.json", {str(each): 0.9 for each in loaded.recipe.shapes()}
    )
    write_front(folder.front, result, loaded.recipe.front.subnets)


def _loaded(scale: str) -> LoadedRecipe:
    return load_recipe(RECIPE, scale=scale, overrides=["training.device=cpu"])


def measured(*command: object) -> tuple[float, float, int]:
    """Run a command; return its seconds, those on a processor, and its most bytes in memory."""
    words = [sys.executable, "-c", MEASURE, sys.executable, *map(str, command)]
    found = subprocess.run(words, check=True, capture_output=True, text=True).stdout
    seconds, own, most = map(float, found.split())
    return seconds, own, int(most)


@click.command()
@click.argument("path", type=click.Path(path_type=Path))
@click.option("--steps", default=400_000, show_default=True)
@click.option("--evaluations", default=10_000, show_default=True)
@click.option("--strategy", default="evolutionary:none", show_default=True, help="NAME[:PREDICTOR]")
@click.option("--scale", default="paper", show_default=True)
@click.option("--each", is_flag=True, help="A line for each step, as earlier versions wrote.")
@click.option("--resume", is_flag=True, help="Only resume the search.")
def main(
    path: Path, steps: int, evaluations: int, strategy: str, scale: str, each: bool, resume: bool
) -> None:
    """Make a long run's folder, and measure the report and a resumed search."""
    torch.set_num_threads(1)
    loaded, folder = _loaded(scale), RunFolder(path)
    if resume:
        context = context_of(loaded)
        started, own = time.perf_counter(), time.process_time()
        found = run_search(folder, loaded, context, strategy, evaluations)
        assert len(found.evaluations) == evaluations
        seconds, own = time.perf_counter() - started, time.process_time() - own
        click.echo(
            f"search of {evaluations} evaluations by {strategy} resumed: {seconds:.1f} s "
            f"({own:.1f} s of a processor)"
        )
        return
    click.echo(machine())
    if not folder.recipe.exists():
        begin(path, loaded)
        for split in SPLITS:
            write_json(path / "data" / f"{split}.json", {"clips": 10_000_000})
        write_json(folder.train / "space.json", described(loaded.space))
        write_training(folder, loaded, steps, each=each)
        write_search(folder, loaded, strategy, evaluations)
    size = folder.events.stat().st_size
    click.echo(f"log of {steps} steps: {size / 1e6:.1f} MB")
    seconds, own, most = measured("-m", "nasvid", "report", path)
    html = (path / "report.html").stat().st_size
    click.echo(
        f"report: {seconds:.1f} s ({own:.1f} s of a processor), {most / 1e6:.0f} MB, "
        f"{html / 1e6:.1f} MB of HTML"
    )
    again = ("--evaluations", evaluations, "--strategy", strategy, "--scale", scale, "--resume")
    subprocess.run([sys.executable, __file__, str(path), *map(str, again)], check=True)


if __name__ == "__main__":
    main()
