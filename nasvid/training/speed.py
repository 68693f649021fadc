"""How fast steps are, and how much of a device they use."""

from __future__ import annotations

import resource
from typing import Any

import numpy as np
import torch

from nasvid.parts import Parts
from nasvid.ranks import Ranks
from nasvid.space import SearchSpace
from nasvid.training.plan import StepPlan


def measured(
    parts: Parts, plan: StepPlan, ranks: Ranks, waited: float, seconds: float
) -> dict[str, Any]:
    """Return what a step's event says of its speed.

    waited: seconds until its clips were there. seconds: those of the step itself, with its
    checkpoint if it wrote one.

    `flops` are the model's own on all ranks: three times the forward pass of each subnet on each
    clip, whatever was computed twice to save memory (Chowdhery et al., arXiv 2204.02311, appendix
    B); left out where the space has no formula for them. `memory` is the first rank's peak, bytes.
    """
    event: dict[str, Any] = {"seconds": seconds, "waited": waited, "ranks": ranks.size}
    if type(parts.space).costs is not SearchSpace.costs:
        event["flops"] = step_flops(parts, plan)
    return event | {"memory": peak_memory(parts.device)}


def step_flops(parts: Parts, plan: StepPlan) -> int:
    """Return the floating-point operations of a step's models: 2 for each MAC, 3 MACs for one."""
    rows = np.stack([parts.space.encode(planned.arch) for planned in plan.subnets])
    costs = parts.space.costs(rows, parts.shapes[plan.resolution])
    return int(6 * costs.macs.sum()) * plan.clips


def peak_memory(device: torch.device) -> int:
    """Return the most bytes that were in use: of the device, or of this process on a CPU."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
