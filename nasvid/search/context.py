"""Preparing to judge: the trained supernet and held-out clips with fixed noise."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch

from nasvid.data.loader import BatchRequest, load_batches
from nasvid.data.shards import ShardIndex
from nasvid.diffusion.objective import NoisyBatch
from nasvid.errors import UserError
from nasvid.parts import Parts
from nasvid.recipe import Recipe
from nasvid.search.judge import Context
from nasvid.supernet import Supernet
from nasvid.training import checkpoint
from nasvid.training.step import noisy_batch

BATCH = 16
"""Clips noised and judged together."""


def held_out(recipe: Recipe, parts: Parts, index: ShardIndex) -> dict[int, list[NoisyBatch]]:
    """Return, per resolution, `search.clips` held-out clips with their timesteps and noise.

    They depend on the recipe's seed alone: every candidate, and every resumed search, is judged
    on the same ones (common random numbers).
    """
    batches: dict[int, list[NoisyBatch]] = {}
    for side, shape in parts.shapes.items():
        starts = range(0, recipe.search.clips, BATCH)
        requests = [
            BatchRequest(
                number=number,
                height=shape.height,
                width=shape.width,
                first=start,
                size=min(BATCH, recipe.search.clips - start),
            )
            for number, start in enumerate(starts)
        ]
        clips = load_batches(
            index,
            requests,
            frames=recipe.data.frames,
            fps=recipe.data.fps,
            flip=False,
            seed=recipe.seed,
            workers=0,
            train=False,
        )
        batches[side] = [
            noisy_batch(
                batch, parts.objective, parts.text, _generator(recipe.seed, side, i), parts.device
            )
            for i, batch in enumerate(clips)
        ]
    return batches


def trained_supernet(parts: Parts, checkpoints: Path) -> Supernet:
    """Return the supernet with the newest checkpoint's averaged weights, in eval mode.

    Raises:
        UserError: there is no checkpoint.
    """
    newest, _ = checkpoint.latest(checkpoints)
    if newest is None:
        raise UserError(f"{checkpoints} holds no checkpoint: train first (nasvid run)")
    with torch.device("meta"):
        net = parts.space.build(parts.space.largest)
    net = net.to_empty(device=parts.device)
    checkpoint.load_ema(newest, net)
    return Supernet(parts.space, net.eval())


def make_context(parts: Parts, supernet: Supernet, batches: dict[int, list[NoisyBatch]]) -> Context:
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
