"""Preparing to judge: the trained supernet and held-out clips with fixed noise."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from nasvid.data.clips import Clips
from nasvid.data.loader import BatchRequest
from nasvid.errors import UserError
from nasvid.objective import NoisyBatch
from nasvid.recipe.sections import Recipe
from nasvid.run.parts import Parts
from nasvid.search.judge import Context
from nasvid.supernet import Supernet
from nasvid.training import checkpoint
from nasvid.training.step import noisy_batch

BATCH = 16
"""Clips noised and judged together."""


@dataclass(frozen=True, slots=True)
class HeldOut:
    """What candidates are judged on.

    batches: resolution -> clips with their timesteps and noise.
    mean_loss: resolution -> what predicting the mean scores on them, for comparison.
    """

    batches: Mapping[int, list[NoisyBatch]]
    mean_loss: Mapping[int, float]


def held_out(recipe: Recipe, parts: Parts, clips: Clips) -> HeldOut:
    """Return `search.clips` held-out clips for each resolution.

    They depend on the recipe's seed alone: every candidate, and every resumed search, is judged
    on the same ones (common random numbers).
    """
    batches: dict[int, list[NoisyBatch]] = {}
    mean_loss: dict[int, float] = {}
    for side in parts.shapes:
        starts = range(0, recipe.search.clips, BATCH)
        requests = [
            BatchRequest(
                number=number,
                height=side,
                width=side,
                first=start,
                size=min(BATCH, recipe.search.clips - start),
            )
            for number, start in enumerate(starts)
        ]
        means = []
        batches[side] = []
        for number, batch in enumerate(clips.load(requests)):
            generator = _generator(recipe.seed, side, number)
            noisy = noisy_batch(batch, parts.objective, parts.text, generator, parts.device)
            batches[side].append(noisy)
            means.append(parts.objective.mean_loss(batch.video.to(parts.device), noisy))
        mean_loss[side] = sum(means) / len(means)
    return HeldOut(batches, mean_loss)


def trained_supernet(recipe: Recipe, parts: Parts, checkpoints: Path) -> Supernet:
    """Return the supernet with the averaged weights of a checkpoint, the last, in eval mode.

    The best instead where the recipe's search says so.

    Raises:
        UserError: there is no such checkpoint, or training has not come to its end.
    """
    newest, _ = checkpoint.latest(checkpoints)
    if newest is None:
        raise UserError(f"{checkpoints} holds no checkpoint: train first (nasvid run)")
    done, steps = checkpoint.read_progress(newest).step, recipe.training.steps
    if done < steps:
        raise UserError(
            f"{newest} is the newest whole checkpoint, {done} of {steps} steps: train to the end "
            "first (nasvid run)"
        )
    chosen = newest
    if recipe.search.checkpoint == "best":
        chosen = checkpoint.best_of(checkpoints)
        if chosen is None:
            raise UserError(
                f"{checkpoints} has no best checkpoint: none was judged while it was trained "
                "(training.keep_best)"
            )
    supernet = parts.supernet(recipe.seed)
    checkpoint.load_ema(chosen, supernet.net.eval())
    return supernet


def make_context(
    parts: Parts, supernet: Supernet, batches: Mapping[int, Sequence[NoisyBatch]]
) -> Context:
    """Return what evaluators judge with."""
    return Context(
        supernet=supernet,
        shapes=parts.shapes,
        batches=batches,
        objective=parts.objective,
        device=parts.device,
        autocast=parts.autocast,
    )


def _generator(seed: int, side: int, number: int) -> torch.Generator:
    state = np.random.default_rng([seed, side, number, 3]).integers(2**62)
    return torch.Generator().manual_seed(int(state))
