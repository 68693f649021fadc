"""How long training pauses for a checkpoint that is written behind it, over writing it at once.

    python benchmarks/checkpoints.py             of 93 million parameters, on the CPU, minutes
    python benchmarks/checkpoints.py --engine deepspeed --rounds 3
    python benchmarks/checkpoints.py --recipe recipes/sned_pixel.yaml --scale gpu    any recipe

Goal: 0.1. Both are measured in turn, in one process, with a real trainer; training goes on while
the checkpoint is written, and the time of its steps is printed too.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from statistics import median

import click
from memory import WEIGHTS
from paired import machine

from nasvid.data.shards import index_shards
from nasvid.distributed.ranks import ALONE
from nasvid.preflight import load_recipe
from nasvid.run.components import Components
from nasvid.training.events import CheckpointEvent
from nasvid.training.saver import Saver
from nasvid.training.saving import Place
from nasvid.training.trainer import Trainer


class Training:
    """A training that can be continued by single steps."""

    def __init__(self, path: Path, scale: str | None, overrides: tuple[str, ...]) -> None:
        loaded = load_recipe(path, scale=scale, overrides=overrides)
        recipe, components = loaded.recipe, Components(loaded)
        index = index_shards(recipe.data.train, Path(), "train")
        clips = components.clips(index, "train")
        self.trainer = Trainer.of(recipe, components.supernet(), components.noiser())
        self.batches = clips.load(self.trainer.planner.requests(0, 0, ALONE))

    def step(self) -> float:
        """Make a step; return its seconds."""
        return self.trainer.step([next(self.batches)]).speed.seconds


def measure(training: Training, folder: Path, rounds: int) -> None:
    events: list[CheckpointEvent] = []
    alone: list[float] = []
    beside: list[float] = []
    spent: tuple[list[float], list[float]] = ([], [])
    trainer = training.trainer
    with Saver(Place(folder, ALONE, keep=1), trainer.trained, events.append, print) as saver:
        saver.prepare(ages=False)
        for round_ in range(rounds + 1):
            alone += [training.step() for _ in range(2)]
            spent[0].append(processor(lambda: saver.save(trainer.progress)))
            training.step()
            spent[1].append(processor(lambda: saver.begin(trainer.progress)))
            while len(events) < 2 * (round_ + 1):
                beside.append(training.step())
                if saver.ready:
                    saver.proceed()
    at_once = [event.seconds for event in events[2::2]]
    paused = [event.paused for event in events[3::2]]
    size = sum(path.stat().st_size for path in folder.rglob("*.safetensors"))
    params = sum(parameter.numel() for parameter in trainer.trained.net.parameters())
    print(f"a checkpoint of {params / 1e6:.0f} million parameters: {size / 1e9:.2f} GB")
    print(f"written at once: {median(at_once):.2f} s")
    print(f"written while training goes on: it pauses {median(paused):.2f} s")
    ratios = sorted(pause / whole for pause, whole in zip(paused, at_once, strict=True))
    print(f"ratio {median(ratios):.3f} [{ratios[0]:.3f} to {ratios[-1]:.3f}]")
    whole, pause = (median(seconds[1:]) for seconds in spent)
    print(f"of a processor: {pause:.2f} s over {whole:.2f} s, ratio {pause / whole:.3f}")
    print(f"a step: {median(alone):.2f} s; beside the writing {median(beside):.2f} s")


def processor(work: Callable[[], object]) -> float:
    """Seconds of a processor that some work takes, which others on the machine hardly change."""
    started = time.process_time()
    work()
    return time.process_time() - started


@click.command()
@click.option("--recipe", type=click.Path(path_type=Path, exists=True))
@click.option("--scale")
@click.option("--engine", default="torch", show_default=True)
@click.option("--rounds", default=3, show_default=True)
@click.option("--set", "sets", multiple=True)
def main(
    recipe: Path | None, scale: str | None, engine: str, rounds: int, sets: tuple[str, ...]
) -> None:
    print(machine())
    with tempfile.TemporaryDirectory(dir=Path.cwd()) as folder:
        if recipe is None:
            recipe = Path(folder) / "recipe.yaml"
            recipe.write_text(WEIGHTS)
        overrides = (f"training.engine={{name: {engine}}}", "training.steps=100000", *sets)
        training = Training(recipe, scale, overrides)
        with closing(training.batches):
            measure(training, Path(folder) / "checkpoints", rounds)


if __name__ == "__main__":
    main()
