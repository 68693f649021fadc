"""What a recipe will need, before anything is allocated: the space, its costs, memory, time."""

from __future__ import annotations

import math
import os
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import torch

from nasvid.config import EngineSection
from nasvid.device import autocast_dtype, pick_device
from nasvid.errors import UserError
from nasvid.machine import host_memory
from nasvid.planning import engines
from nasvid.planning.devices import Devices, known_card
from nasvid.planning.memory import (
    CHECKPOINTED,
    HALF_ACTIVATIONS,
    EngineChoice,
    MemoryPlan,
    Weights,
    memory,
)
from nasvid.planning.speed import (
    UTILIZATION,
    SpeedPlan,
    sent_bytes,
    speed,
    training_seconds,
)
from nasvid.recipe import Recipe
from nasvid.recipe_file.checks import trains_largest
from nasvid.space import SearchSpace
from nasvid.training.plan import batch_sizes
from nasvid.video import VideoShape

SHOWN_RESOLUTIONS = (64, 128, 256)
"""Planned for in every recipe, beside its own resolutions."""
USABLE = 0.9
"""Share of a device's memory that a recipe may be predicted to need: fragments, the framework's
own and what else runs there take the rest."""


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


@dataclass(frozen=True, slots=True, kw_only=True)
class EnginePlan:
    """What training takes of each device under one engine.

    sent: bytes to others in a step. fits: whether the memory does, None if not known.
    """

    memory: MemoryPlan
    sent: int
    fits: bool | None

    def to_json(self) -> dict[str, Any]:
        """Return plain values."""
        return self.memory.to_json() | {"sent": self.sent, "fits": self.fits}


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """What a recipe will need; plain data.

    engine: the one that is planned for, the first of `engines`; the others are beside it to
    compare. seconds: of the whole training, None if not known.
    """

    name: str
    choices: int
    networks: int
    smallest_params: int
    largest_params: int
    devices: Devices
    precision: str
    gradient_checkpointing: bool
    shapes: tuple[ShapePlan, ...]
    engines: tuple[EnginePlan, ...]
    speeds: tuple[SpeedPlan, ...]
    utilization: float
    steps: int
    seconds: float | None

    @property
    def engine(self) -> EnginePlan:
        """The one that is planned for."""
        return self.engines[0]

    def to_json(self) -> dict[str, Any]:
        """Return plain values; bytes are bytes, times are seconds."""
        timed = [
            asdict(each) | {"seconds": each.seconds, "videos_per_second": each.videos_per_second}
            for each in self.speeds
        ]
        shown = [each.to_json() for each in self.engines]
        return asdict(self) | {"engines": shown, "speeds": timed}


def make_plan(
    recipe: Recipe,
    devices: Devices | None = None,
    engine: EngineSection | None = None,
    utilization: float = UTILIZATION,
) -> Plan:
    """Predict costs, memory and time; models are made on the `meta` device only.

    devices: None for this machine's own, one. engine: None for the recipe's. utilization: share of
    the peak FLOP/s that is assumed to be reached.

    The memory is that of a step which trains the largest subnet, at the resolution where that
    takes most (`nasvid.planning.memory`); the time, that of average steps
    (`nasvid.planning.speed`).

    Raises:
        UserError: the engine's own file cannot be read.
    """
    space = recipe.make_space()
    cuda, half = _target(recipe, devices)
    devices = _here(recipe) if devices is None else devices
    ends = np.stack([space.encode(space.smallest), space.encode(space.largest)])
    params = space.costs(ends, recipe.shapes()[min(recipe.resolutions)]).params
    aged = not trains_largest(recipe, space)
    weights = Weights(params=int(params[1]), devices=devices.count, half=half, aged=aged, cuda=cuda)
    chosen = engines.choice(engine or recipe.training.engine, recipe.training)
    shapes = tuple(_shape_plans(recipe, space, ends, devices, chosen, weights))
    speeds = tuple(
        speed(
            recipe,
            space,
            batch_sizes(space, recipe.resolutions, recipe.shapes()),
            weights.params,
            chosen,
            devices,
            "bf16" if half else "fp32",
            utilization,
        )
    )
    return Plan(
        name=recipe.name,
        choices=len(space.choices),
        networks=space.size,
        smallest_params=int(params[0]),
        largest_params=int(params[1]),
        devices=devices,
        precision=_precision(recipe, half),
        gradient_checkpointing=recipe.training.gradient_checkpointing,
        shapes=shapes,
        engines=tuple(_engine_plans(chosen, weights, shapes, devices)),
        speeds=speeds,
        utilization=utilization,
        steps=recipe.training.steps,
        seconds=training_seconds(recipe, {each.resolution: each for each in speeds}),
    )


def fit(recipe: Recipe) -> tuple[bool, str]:
    """Return whether the recipe's device is here and large enough, and why in one line."""
    try:
        device = pick_device(recipe.training.device)
    except UserError as error:
        return False, str(error)
    found = _here(recipe)
    needs = make_plan(recipe, engine=recipe.training.engine).engine.memory.total
    assert found.memory is not None
    line = f"training needs about {needs / 1e9:.2g} GB, {device} has {found.memory / 1e9:.1f} GB"
    return needs <= USABLE * found.memory, line


def _here(recipe: Recipe) -> Devices:
    """Return the device that the recipe would take here; as many as a launcher says there are."""
    count = int(os.environ.get("WORLD_SIZE", "1"))
    try:
        device = pick_device(recipe.training.device)
    except UserError:
        return Devices(count)
    if device.type != "cuda":
        return Devices(count, host_memory() // int(os.environ.get("LOCAL_WORLD_SIZE", "1")))
    card = known_card(torch.cuda.get_device_name(device)) or Devices()
    total = torch.cuda.get_device_properties(device).total_memory
    return Devices(count, total, card.bf16, card.fp32, card.bandwidth, card.name)


def _target(recipe: Recipe, devices: Devices | None) -> tuple[bool, bool]:
    """Return whether a plan is for GPUs, and whether their products are in half precision.

    Devices that are described are taken to be GPUs that have bf16; so are those that the recipe
    names and that are not here.
    """
    described = devices is not None and (devices.memory or devices.bf16) is not None
    try:
        device = pick_device(recipe.training.device)
    except UserError:
        device = torch.device("cuda")
        described = True
    if described:
        return True, recipe.training.precision != "fp32"
    return device.type == "cuda", autocast_dtype(recipe.training.precision, device) is not None


def _precision(recipe: Recipe, half: bool) -> str:
    if not half:
        return "fp32"
    return "fp16" if recipe.training.precision == "fp16" else "bf16"


def _shape_plans(
    recipe: Recipe,
    space: SearchSpace,
    ends: np.ndarray,
    devices: Devices,
    engine: EngineChoice,
    weights: Weights,
) -> Iterator[ShapePlan]:
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
            each = math.ceil(batch / devices.count)
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


def _most(
    engine: EngineChoice, weights: Weights, clip_bytes: int, there_is: int | None
) -> int | None:
    """Return how many clips of a backward pass fit into a device's memory."""
    if there_is is None:
        return None
    needs = memory(engine, weights, 0)
    left = int(USABLE * there_is) - needs.always
    return max(0, left - needs.activations) // clip_bytes if left >= needs.update else 0


def _engine_plans(
    chosen: EngineChoice, weights: Weights, shapes: Sequence[ShapePlan], devices: Devices
) -> Iterator[EnginePlan]:
    activations = max(shape.clip_bytes * shape.each for shape in shapes if shape.each is not None)
    for each in engines.to_compare(chosen, devices.count):
        needs = memory(each, weights, activations)
        fits = None if devices.memory is None else needs.total <= USABLE * devices.memory
        yield EnginePlan(
            memory=needs, sent=sent_bytes(each, weights.params, devices.count), fits=fits
        )


def _takes(space: SearchSpace, shape: VideoShape) -> bool:
    try:
        space.check_shape(shape)
    except ValueError:
        return False
    return True
