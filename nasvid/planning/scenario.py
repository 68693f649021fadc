"""What is planned: a recipe on the devices of this machine, or on described ones."""

from __future__ import annotations

import os
from dataclasses import dataclass

import numpy as np
import torch

from nasvid.errors import UserError
from nasvid.host.cards import Devices, known_card
from nasvid.host.device import autocast_dtype, pick_device
from nasvid.host.machine import host_memory
from nasvid.planning.encoders import Encoders, encoders
from nasvid.recipe.sections import Recipe
from nasvid.space import SearchSpace
from nasvid.training.planner import Planner
from nasvid.training.resources import Workload


@dataclass(frozen=True, slots=True, kw_only=True)
class Scenario:
    """What all parts of a plan depend on, under any engine.

    space: the recipe's. ends: genomes of the smallest and the largest architecture. planner: of
    its training steps. half: whether products are in bf16 or fp16. work: the workload that engines
    report their resources for. smallest_params: parameters of the smallest architecture. encoders:
    what the VAE and the text encoder need.
    """

    recipe: Recipe
    space: SearchSpace
    ends: np.ndarray
    planner: Planner
    devices: Devices
    half: bool
    work: Workload
    smallest_params: int
    encoders: Encoders

    @classmethod
    def of(cls, recipe: Recipe, devices: Devices | None) -> Scenario:
        """Return the scenario of a recipe; devices: None for this machine's."""
        space = recipe.make_space()
        cuda, half = _products(recipe, devices)
        devices = own_devices(recipe) if devices is None else devices
        ends = np.stack([space.encode(space.smallest), space.encode(space.largest)])
        planner = Planner.of(recipe, space)
        params = space.costs(ends, recipe.shapes()[min(recipe.resolutions)]).params
        return cls(
            recipe=recipe,
            space=space,
            ends=ends,
            planner=planner,
            devices=devices,
            half=half,
            work=Workload(
                params=int(params[1]),
                devices=devices.count,
                ages=not planner.trains_largest,
                cuda=cuda,
            ),
            smallest_params=int(params[0]),
            encoders=encoders(recipe, cuda=cuda),
        )

    @property
    def precision(self) -> str:
        """The precision of products: `fp32`, `bf16` or `fp16`."""
        if not self.half:
            return "fp32"
        return "fp16" if self.recipe.training.precision == "fp16" else "bf16"

    @property
    def peak(self) -> float | None:
        """Peak FLOP/s of a device at that precision; None if unknown."""
        return self.devices.peak(self.precision)

    @property
    def sharing(self) -> int:
        """Devices that share the clips of a step at one resolution."""
        return max(1, self.devices.count // self.recipe.training.resolution_groups)


def own_devices(recipe: Recipe) -> Devices:
    """Return the device that the recipe uses on this machine, as many as a launcher started."""
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


def _products(recipe: Recipe, devices: Devices | None) -> tuple[bool, bool]:
    """Return whether a plan is for GPUs, and whether their products are in half precision.

    Described devices are assumed to be GPUs with bf16, and so are those that the recipe names but
    this machine lacks.
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
