"""What a plan is for: the devices of this machine, or those that are described."""

from __future__ import annotations

import os

import torch

from nasvid.errors import UserError
from nasvid.host.device import autocast_dtype, pick_device
from nasvid.host.machine import host_memory
from nasvid.planning.devices import Devices, known_card
from nasvid.recipe.sections import Recipe


def here(recipe: Recipe) -> Devices:
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


def target(recipe: Recipe, devices: Devices | None) -> tuple[bool, bool]:
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


def precision(recipe: Recipe, half: bool) -> str:
    """Return what products are in."""
    if not half:
        return "fp32"
    return "fp16" if recipe.training.precision == "fp16" else "bf16"
