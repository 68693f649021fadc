"""How fast steps are, and how much of a device they use."""

from __future__ import annotations

import resource
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from nasvid.host.cards import known_card
from nasvid.sampler import StepPlan
from nasvid.space import SearchSpace
from nasvid.training.events import Speed

PROCESS = Path("/proc/self")
"""This process in Linux's proc file system."""


@dataclass(frozen=True, slots=True)
class Meter:
    """Measures the speed of steps in a space, on a device, at a precision and on `ranks` ranks."""

    space: SearchSpace
    device: torch.device
    autocast: torch.dtype | None
    ranks: int

    def speed(self, plan: StepPlan, waited: float, seconds: float) -> Speed:
        """Return the speed of a step.

        waited: seconds of waiting for its clips. seconds: of the step itself.

        The FLOPs are those of the models on all ranks: three times the forward pass of each subnet
        on each clip, not counting recomputation (Chowdhery et al., arXiv 2204.02311, appendix B).
        """
        flops = utilization = None
        if self.space.has_cost_formula:
            flops = step_flops(self.space, plan)
            if peak := peak_flops(self.device, self.autocast):
                utilization = flops / seconds / (peak * self.ranks)
        return Speed(
            seconds=seconds,
            waited=waited,
            ranks=self.ranks,
            flops=flops,
            utilization=utilization,
            memory=peak_memory(self.device),
        )


def step_flops(space: SearchSpace, plan: StepPlan) -> int:
    """Return the FLOPs of a step's models: 2 per MAC, and 3 times the MACs of a forward pass."""
    rows = np.stack([space.encode(planned.arch) for planned in plan.subnets])
    return sum(
        int(6 * space.costs(rows, batch.shape).macs.sum()) * batch.clips for batch in plan.batches
    )


def peak_flops(device: torch.device, autocast: torch.dtype | None) -> float | None:
    """Return a device's peak FLOP/s in a run's precision; None if unknown."""
    if device.type != "cuda":
        return None
    card = known_card(torch.cuda.get_device_name(device))
    return card.peak("bf16" if autocast else "fp32") if card else None


def peak_memory(device: torch.device) -> int:
    """Return the peak memory in bytes: of the device, or of this process on a CPU."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    if PROCESS.exists():
        lines = PROCESS.joinpath("status").read_text().splitlines()
        return 1024 * next(int(line.split()[1]) for line in lines if line.startswith("VmHWM:"))
    return 1024 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


def forget_peak(device: torch.device) -> None:
    """Reset the peak memory; see proc(5), `clear_refs`."""
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
    elif PROCESS.exists():
        PROCESS.joinpath("clear_refs").write_text("5")
