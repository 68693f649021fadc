"""Measures how fast a recipe trains here: real steps at each resolution with each engine."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory
from typing import Any

import torch

from nasvid.data.clips import in_buckets, shard_cache
from nasvid.data.shards import index_shards
from nasvid.distributed.ranks import Ranks
from nasvid.host.words import counted
from nasvid.preflight import LoadedRecipe
from nasvid.recipe.sections import EngineSection, Recipe
from nasvid.run.components import Components
from nasvid.run.teacher import load_teacher
from nasvid.shapes import Resolution
from nasvid.training.engine import check_ready, label
from nasvid.training.events import Event, StepEvent
from nasvid.training.planner import resolutions_of
from nasvid.training.progress import Progress
from nasvid.training.speed import forget_peak, peak_flops
from nasvid.training.trainer import Outside, Trainer, train

WARM_UP = 2
"""Number of untimed steps of each row, before the timed ones."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """The measurements at one resolution with one engine; medians over its steps.

    clips: per step, on all ranks. seconds: per step. waiting: share of the time spent waiting for
    clips. flops: of the models, per second, on all ranks; None if the space has no cost formula.
    utilization: their share of the peak of all ranks; None if that is unknown.
    memory: peak bytes on rank 0, the process's own on a CPU.
    """

    engine: str
    resolution: Resolution
    ranks: int
    clips: int
    subnets: int
    seconds: float
    waiting: float
    flops: float | None
    utilization: float | None
    memory: int

    def to_json(self) -> dict[str, Any]:
        """Return plain values."""
        return asdict(self) | {
            "resolution": self.resolution.to_json(),
            "videos_per_second": self.clips / self.seconds,
        }


def bench_train(
    loaded: LoadedRecipe,
    engines: Sequence[EngineSection],
    steps: int,
    ranks: Ranks,
    peak: float | None = None,
) -> Iterator[Row]:
    """Yield a row for each resolution and engine; the steps are like those at the end of training.

    peak: FLOP/s of a device; None for its card's known value.

    Nothing is kept, except remote shards if the recipe names a folder for them. Clips in latent
    space are encoded in each step.

    Raises:
        UserError: an engine lacks something on this machine.
    """
    for engine in engines:
        check_ready(engine)
    recipe, components = loaded.recipe, Components(loaded)
    peak = peak or peak_flops(components.device, components.autocast)
    last = max(recipe.training.steps, WARM_UP + steps)
    recipe = recipe.model_copy(
        update={"training": recipe.training.model_copy(update={"steps": last})}
    )
    with TemporaryDirectory(prefix="nasvid-") as own:
        cache = shard_cache(recipe, Path(own))
        shapes = recipe.data.buckets
        index = index_shards(recipe.data.train, Path(), "train", cache=cache, shapes=shapes)
        index = in_buckets(recipe, index)
        clips = components.clips(index, "train")
        resolutions = resolutions_of(components.space, recipe.resolutions, components.shapes)
        teacher = load_teacher(components, recipe.training.teacher, "training.teacher")
        for engine in engines:
            for resolution in sorted(recipe.resolutions):
                forget_peak(components.device)
                trainer = Trainer.of(
                    _at(recipe, resolution, resolutions[resolution].batch, engine),
                    components.supernet(),
                    components.noiser(),
                    ranks,
                    teacher,
                )
                trainer = replace(trainer, progress=Progress(last - WARM_UP - steps))
                events: list[Event] = []
                outside = Outside(events.append, print, stop=lambda: None)
                train(trainer, clips, None, outside, max_skipped=recipe.data.max_skipped)
                timed = [event for event in events if isinstance(event, StepEvent)][WARM_UP:]
                yield _row(engine, resolution, ranks, timed, peak)


def _at(recipe: Recipe, resolution: Resolution, batch: int, engine: EngineSection) -> Recipe:
    """Return the recipe with only this resolution and this engine."""
    section = recipe.resolutions[resolution].model_copy(update={"batch": batch})
    training = recipe.training.model_copy(update={"engine": engine})
    return recipe.model_copy(update={"resolutions": {resolution: section}, "training": training})


def _row(
    engine: EngineSection,
    resolution: Resolution,
    ranks: Ranks,
    events: list[StepEvent],
    peak: float | None,
) -> Row:
    speeds = [event.speed for event in events]
    seconds = median(speed.seconds for speed in speeds)
    flops = [speed.flops / speed.seconds for speed in speeds if speed.flops is not None]
    return Row(
        engine=label(engine),
        resolution=resolution,
        ranks=ranks.size,
        clips=events[0].clips,
        subnets=len(events[0].subnets),
        seconds=seconds,
        waiting=sum(speed.waited for speed in speeds) / sum(speed.total for speed in speeds),
        flops=median(flops) if flops else None,
        utilization=median(flops) / (peak * ranks.size) if flops and peak else None,
        memory=speeds[-1].memory,
    )


def device_name(device: torch.device) -> str:
    """Return a device's readable name."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    return f"CPU, {counted(torch.get_num_threads(), 'thread')}"
