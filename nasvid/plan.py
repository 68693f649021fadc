"""What a recipe will need, before anything is allocated: the space, its costs, the memory."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import torch

from nasvid.device import autocast_dtype, pick_device
from nasvid.errors import UserError
from nasvid.machine import host_memory
from nasvid.recipe import Recipe
from nasvid.recipe_file.checks import trains_largest
from nasvid.space import SearchSpace
from nasvid.training.plan import batch_sizes
from nasvid.video import VideoShape

SHOWN_RESOLUTIONS = (64, 128, 256)
"""Planned for in every recipe, beside its own resolutions."""
CHECKPOINTED = 0.25
"""Share of the activations that gradient checkpointing needs: the inputs of all blocks, and one
block made again. Measured in the elastic UNet: 0.36 with 7 blocks, 0.22 with 13, 0.20 with 25."""
BF16_ACTIVATIONS = 0.6
"""Bytes of activations under bf16 autocast, relative to fp32; measured in the elastic UNet: 0.57
to 0.63, for norms stay in fp32."""
USABLE = 0.9
"""Share of a device's memory that a recipe may be predicted to need."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ShapePlan:
    """Costs at one resolution, of the smallest and the largest architecture.

    macs: of one forward pass of one clip. batch: clips of a step, None for a resolution that the
    recipe does not train. activation_bytes, checkpointed_bytes: of the largest, for `batch` clips
    or one, kept for the backward pass without and with gradient checkpointing.
    """

    resolution: int
    batch: int | None
    smallest_macs: int
    largest_macs: int
    activation_bytes: int
    checkpointed_bytes: int


@dataclass(frozen=True, slots=True, kw_only=True)
class StagePlan:
    """Bytes on each device under one ZeRO stage; stage 0 is plain data parallelism."""

    stage: int
    weights: int
    gradients: int
    optimizer: int
    ema: int
    activations: int

    @property
    def total(self) -> int:
        """All of it."""
        return self.weights + self.gradients + self.optimizer + self.ema + self.activations


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """What a recipe will need; plain data."""

    name: str
    choices: int
    networks: int
    smallest_params: int
    largest_params: int
    devices: int
    precision: str
    gradient_checkpointing: bool
    shapes: tuple[ShapePlan, ...]
    stages: tuple[StagePlan, ...]

    def to_json(self) -> dict[str, Any]:
        """Return plain values; bytes are bytes."""
        stages = [asdict(stage) | {"total": stage.total} for stage in self.stages]
        return asdict(self) | {"stages": stages}


def make_plan(recipe: Recipe, devices: int = 1) -> Plan:
    """Predict costs and training memory; models are made on the `meta` device only.

    The memory of a training step is that of the largest subnet, P parameters in fp32:
    weights 4P (and 2P for their bf16 copies under autocast), gradients 4P, AdamW's two moments 8P
    (and 4P for the age of each weight unless every step trains the largest subnet), averaged
    weights 4P, and the activations of the clips of one device at the resolution where they are
    largest. ZeRO (Rajbhandari et al., arXiv 1910.02054, section 5) divides by the number of
    devices: the optimizer's from stage 1 on, gradients too from stage 2, weights too at stage 3.
    Averaged weights are kept whole. What a framework takes for itself is not counted.
    """
    space = recipe.make_space()
    ends = np.stack([space.encode(space.smallest), space.encode(space.largest)])
    shapes = _shape_plans(recipe, space, ends)
    params = space.costs(ends, recipe.shapes()[min(recipe.resolutions)]).params
    bf16 = _is_bf16(recipe)
    return Plan(
        name=recipe.name,
        choices=len(space.choices),
        networks=space.size,
        smallest_params=int(params[0]),
        largest_params=int(params[1]),
        devices=devices,
        precision="bf16" if bf16 else "fp32",
        gradient_checkpointing=recipe.training.gradient_checkpointing,
        shapes=shapes,
        stages=tuple(_stages(recipe, space, int(params[1]), shapes, devices, bf16)),
    )


def predicted_bytes(recipe: Recipe) -> int:
    """Return the memory that training needs on one device."""
    return make_plan(recipe).stages[0].total


def fit(recipe: Recipe) -> tuple[bool, str]:
    """Return whether the recipe's device is here and large enough, and why in one line."""
    try:
        device = pick_device(recipe.training.device)
    except UserError as error:
        return False, str(error)
    memory = host_memory()
    if device.type == "cuda":
        memory = torch.cuda.get_device_properties(device).total_memory
    needs = predicted_bytes(recipe)
    line = f"training needs about {needs / 1e9:.2g} GB, {device} has {memory / 1e9:.1f} GB"
    return needs <= USABLE * memory, line


def _shape_plans(recipe: Recipe, space: SearchSpace, ends: np.ndarray) -> tuple[ShapePlan, ...]:
    own = recipe.shapes()
    batches = batch_sizes(space, recipe.resolutions, own)
    plans = []
    for side in sorted({*own, *SHOWN_RESOLUTIONS}):
        shape = recipe.shape(side)
        if not _takes(space, shape):
            continue
        costs, clips = space.costs(ends, shape), batches.get(side, 1)
        kept = int(costs.activation_bytes[1])
        plans.append(
            ShapePlan(
                resolution=side,
                batch=batches.get(side),
                smallest_macs=int(costs.macs[0]),
                largest_macs=int(costs.macs[1]),
                activation_bytes=kept * clips,
                checkpointed_bytes=int(kept * clips * CHECKPOINTED),
            )
        )
    return tuple(plans)


def _takes(space: SearchSpace, shape: VideoShape) -> bool:
    try:
        space.check_shape(shape)
    except ValueError:
        return False
    return True


def _stages(
    recipe: Recipe,
    space: SearchSpace,
    params: int,
    shapes: Sequence[ShapePlan],
    devices: int,
    bf16: bool,
) -> Iterator[StagePlan]:
    aged = not trains_largest(recipe, space)
    checkpointed = recipe.training.gradient_checkpointing
    activations = max(
        (shape.checkpointed_bytes if checkpointed else shape.activation_bytes)
        / shape.batch
        * math.ceil(shape.batch / devices)
        for shape in shapes
        if shape.batch is not None
    )
    weights, gradients, optimizer = params * (6 if bf16 else 4), params * 4, params * (8 + 4 * aged)
    for stage in range(4):
        yield StagePlan(
            stage=stage,
            weights=weights // (devices if stage >= 3 else 1),
            gradients=gradients // (devices if stage >= 2 else 1),
            optimizer=optimizer // (devices if stage >= 1 else 1),
            ema=params * 4,
            activations=int(activations * (BF16_ACTIVATIONS if bf16 else 1)),
        )


def _is_bf16(recipe: Recipe) -> bool:
    """Return whether training would be in bf16; a device that is not here is taken to have it."""
    try:
        device = pick_device(recipe.training.device)
    except UserError:
        return recipe.training.precision != "fp32"
    return autocast_dtype(recipe.training.precision, device) is not None
