"""How fast steps are, and how much of a device they use."""

from __future__ import annotations

import resource
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from nasvid.distributed.ranks import Ranks
from nasvid.planning.devices import known_card
from nasvid.run.parts import Parts
from nasvid.training.plan import StepPlan

PROCESS = Path("/proc/self")
"""What Linux says of this process."""


def measured(
    parts: Parts, plans: Sequence[StepPlan], ranks: Ranks, waited: float, seconds: float
) -> dict[str, Any]:
    """Return what a step's event says of its speed.

    plans: of all groups. waited: seconds until its clips were there. seconds: those of the step
    itself.

    `flops` are the model's own on all ranks: three times the forward pass of each subnet on each
    clip, whatever was computed twice to save memory (Chowdhery et al., arXiv 2204.02311, appendix
    B); left out where the space has no formula for them. `utilization` is their share of the peak
    of a card that is known. `memory` is the first rank's peak, bytes.
    """
    event: dict[str, Any] = {"seconds": seconds, "waited": waited, "ranks": ranks.size}
    if parts.space.has_cost_formula:
        event["flops"] = sum(step_flops(parts, plan) for plan in plans)
        if peak := peak_flops(parts):
            event["utilization"] = event["flops"] / seconds / (peak * ranks.size)
    return event | {"memory": peak_memory(parts.device)}


def step_flops(parts: Parts, plan: StepPlan) -> int:
    """Return the floating-point operations of a group's models: 2 a MAC, and 3 MACs for one."""
    rows = np.stack([parts.space.encode(planned.arch) for planned in plan.subnets])
    costs = parts.space.costs(rows, parts.shapes[plan.resolution])
    return int(6 * costs.macs.sum()) * plan.clips


def peak_flops(parts: Parts) -> float | None:
    """Return the FLOP/s that the device has at its best in the run's precision; None if unknown."""
    if parts.device.type != "cuda":
        return None
    card = known_card(torch.cuda.get_device_name(parts.device))
    return card.peak("bf16" if parts.autocast else "fp32") if card else None


def peak_memory(device: torch.device) -> int:
    """Return the most bytes that were in use: of the device, or of this process on a CPU."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    if PROCESS.exists():
        lines = PROCESS.joinpath("status").read_text().splitlines()
        return 1024 * next(int(line.split()[1]) for line in lines if line.startswith("VmHWM:"))
    return 1024 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


def forget_peak(device: torch.device) -> None:
    """Begin anew to look for the most bytes in use; see proc(5), `clear_refs`."""
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
    elif PROCESS.exists():
        PROCESS.joinpath("clear_refs").write_text("5")
