"""The inputs of evaluation: the trained supernet, held-out clips with fixed noise, sampling."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import closing
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import torch

from nasvid.data.clips import Clips, pixel_clips
from nasvid.data.loader import BatchRequest
from nasvid.diffusion.sample import VideoSampler
from nasvid.diffusion.stock import StockPipeline, StockSampler
from nasvid.errors import UserError
from nasvid.evaluator import CaptionedClips, Context, Guidance
from nasvid.host.display import Display
from nasvid.host.streams import torch_stream
from nasvid.objective import NoisyBatch
from nasvid.recipe.sections import Recipe
from nasvid.run.components import Components
from nasvid.shapes import Resolution
from nasvid.supernet import Supernet
from nasvid.training import checkpoint

BATCH = 16
"""Number of clips evaluated together."""


@dataclass(frozen=True, slots=True)
class HeldOut:
    """The clips that architectures are evaluated on.

    batches: resolution -> clips with their timesteps and noise.
    mean_loss: resolution -> the loss of predicting the mean on them, for comparison.
    captions: of the clips of the highest resolution, in their order.
    clips: reads the clips of a resolution as pixels.
    """

    batches: Mapping[Resolution, list[NoisyBatch]]
    mean_loss: Mapping[Resolution, float]
    captions: tuple[str, ...]
    clips: Callable[[Resolution], Iterator[CaptionedClips]]


def held_out(components: Components, clips: Clips) -> HeldOut:
    """Return `search.clips` held-out clips for each resolution.

    They depend only on the recipe's seed: every architecture is evaluated on the same ones (common
    random numbers), also when a search is resumed.
    """
    recipe, noiser = components.recipe, components.noiser()
    captions: list[str] = []
    batches: dict[Resolution, list[NoisyBatch]] = {}
    mean_loss: dict[Resolution, float] = {}
    for resolution in components.shapes:
        means = []
        batches[resolution] = []
        captions.clear()
        for number, batch in enumerate(clips.load(_requests(recipe, resolution))):
            captions += batch.captions
            noisy = noiser(batch, _noise(recipe.seed, resolution, number))
            batches[resolution].append(noisy)
            means.append(noiser.objective.mean_loss(batch.video.to(noiser.device), noisy))
        mean_loss[resolution] = sum(means) / len(means)
    pixels = pixel_clips(recipe, clips.index, "val")
    return HeldOut(batches, mean_loss, tuple(captions), partial(_captioned, recipe, pixels))


def _noise(seed: int, resolution: Resolution, number: int) -> torch.Generator:
    """Return the generator of a batch's timesteps and noise."""
    if resolution.is_square:
        return torch_stream(seed, "held out", resolution.height, number)
    shape = (resolution.height, resolution.width, resolution.frames or 0)
    return torch_stream(seed, "held out shape", *shape, number)


def _requests(recipe: Recipe, resolution: Resolution) -> list[BatchRequest]:
    n = recipe.search.clips
    return [
        BatchRequest(
            number=number,
            resolution=resolution,
            first=first,
            size=min(BATCH, n - first),
        )
        for number, first in enumerate(range(0, n, BATCH))
    ]


def _captioned(recipe: Recipe, pixels: Clips, resolution: Resolution) -> Iterator[CaptionedClips]:
    with closing(pixels.load(_requests(recipe, resolution))) as batches:
        for batch in batches:
            yield CaptionedClips(batch.video, batch.captions)


def video_sampler(components: Components) -> VideoSampler | StockSampler:
    """Return the sampler of a run's videos, with the recipe's guidance and seed.

    It runs the stock pipeline into which the models are exported, if there is one: what is shown
    and measured is then what that pipeline makes.
    """
    recipe = components.recipe
    guidance = Guidance(recipe.front.guidance_scale, recipe.front.sampling_steps)
    common = {"guidance": guidance, "fps": recipe.data.fps, "seed": recipe.seed}
    pipeline = components.pipeline
    if isinstance(pipeline, StockPipeline):
        return StockSampler(pipeline=pipeline, **common)
    return VideoSampler(
        space=components.space,
        objective=components.objective,
        text=components.text,
        vae=components.vae,
        **common,
    )


def load_trained(recipe: Recipe, supernet: Supernet, checkpoints: Path, command: str) -> Supernet:
    """Load the EMA weights of the last checkpoint into a supernet; return it in eval mode.

    The best checkpoint is loaded instead if `search.checkpoint` is `best`. command: trains it.

    Raises:
        UserError: there is no such checkpoint, or training is not finished.
    """
    newest, complaints = checkpoint.latest(checkpoints)
    damaged = "".join(f"; {each}" for each in complaints)
    if newest is None:
        raise UserError(
            f"{checkpoints} holds no intact checkpoint; train first with {command}{damaged}"
        )
    done, steps = checkpoint.read_progress(newest).step, recipe.training.steps
    if done < steps:
        raise UserError(
            f"{newest}, the newest intact checkpoint, is at step {done} of {steps}; finish the "
            f"training first with {command}{damaged}"
        )
    chosen = newest
    if recipe.search.checkpoint == "best":
        chosen = checkpoint.best_of(checkpoints)
        if chosen is None:
            raise UserError(
                f"{checkpoints} has no best checkpoint, because training.keep_best was off; set "
                "search.checkpoint: last"
            )
        checkpoint.check(chosen)
    checkpoint.load_ema(chosen, supernet.net.eval())
    return supernet


def make_context(
    components: Components, supernet: Supernet, on: HeldOut, display: Display
) -> Context:
    """Return the evaluators' context.

    on: the clips. display: shows the progress of sampling.
    """
    sampler = video_sampler(components)
    return Context(
        supernet=supernet,
        shapes=components.shapes,
        batches=on.batches,
        objective=components.objective,
        device=components.device,
        autocast=components.autocast,
        text=components.text,
        vae=components.vae,
        guidance=sampler.guidance,
        fps=sampler.fps,
        captions=on.captions,
        clips=on.clips,
        make_videos=sampler.videos,
        track=display.track,
    )
