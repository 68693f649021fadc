"""What a recipe's resolutions cost, and how many clips of each fit."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from nasvid.planning.devices import Devices
from nasvid.planning.memory import (
    CHECKPOINTED,
    HALF_ACTIVATIONS,
    USABLE,
    EngineChoice,
    Weights,
    memory,
)
from nasvid.recipe.sections import Recipe
from nasvid.shapes import VideoShape
from nasvid.space import SearchSpace
from nasvid.training.plan import batch_sizes

SHOWN_RESOLUTIONS = (64, 128, 256)
"""Planned for in every recipe, beside its own resolutions."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ShapePlan:
    """Costs at one resolution, of the smallest and the largest architecture.

    macs: of one forward pass of one clip. clip_bytes: activations that the largest keeps of a clip
    in training, in its precision, with gradient checkpointing if the recipe has it.
    batch: clips of a step on all devices, None for a resolution that the recipe does not train.
    each: clips of one backward pass on a device. most: how many would fit, None if not known.
    """

    resolution: int
    smallest_macs: int
    largest_macs: int
    clip_bytes: int
    batch: int | None
    each: int | None
    most: int | None


def shape_plans(
    recipe: Recipe,
    space: SearchSpace,
    ends: np.ndarray,
    devices: Devices,
    engine: EngineChoice,
    weights: Weights,
) -> Iterator[ShapePlan]:
    """Plan for each resolution of the recipe, and those that are always shown.

    ends: genomes of the smallest and the largest architecture.
    """
    own = recipe.shapes()
    batches = batch_sizes(space, recipe.resolutions, own)
    share = CHECKPOINTED if recipe.training.gradient_checkpointing else 1.0
    share *= HALF_ACTIVATIONS if weights.half else 1.0
    for side in sorted({*own, *SHOWN_RESOLUTIONS}):
        shape = recipe.shape(side)
        if not _takes(space, shape):
            continue
        costs, batch = space.costs(ends, shape), batches.get(side)
        clip_bytes = int(int(costs.activation_bytes[1]) * share)
        each = None
        if batch is not None:
            each = math.ceil(batch / group_size(recipe, devices))
            each = min(each, recipe.resolutions[side].micro_batch or each)
        yield ShapePlan(
            resolution=side,
            smallest_macs=int(costs.macs[0]),
            largest_macs=int(costs.macs[1]),
            clip_bytes=clip_bytes,
            batch=batch,
            each=each,
            most=_most(engine, weights, clip_bytes, devices.memory),
        )


def group_size(recipe: Recipe, devices: Devices) -> int:
    """Return how many devices share the clips of one resolution in a step."""
    return max(1, devices.count // recipe.training.resolution_groups)


def _most(
    engine: EngineChoice, weights: Weights, clip_bytes: int, there_is: int | None
) -> int | None:
    """Return how many clips of a backward pass fit into a device's memory."""
    if there_is is None:
        return None
    needs = memory(engine, weights, 0)
    left = int(USABLE * there_is) - needs.always
    return max(0, left - needs.activations) // clip_bytes if left >= needs.update else 0


def _takes(space: SearchSpace, shape: VideoShape) -> bool:
    try:
        space.check_shape(shape)
    except ValueError:
        return False
    return True
