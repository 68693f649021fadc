"""The time of training steps, from peaks and bandwidths that are stated."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from nasvid.planning.devices import Devices
from nasvid.planning.memory import EngineChoice
from nasvid.planning.shapes import group_size
from nasvid.recipe.sections import Recipe
from nasvid.sampler import Draw, Role
from nasvid.space import SearchSpace

UTILIZATION = 0.35
"""Share of the peak that products are assumed to reach."""
DRAWS = 32
"""Steps that are drawn, evenly over the training, to know what a step costs on average."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SpeedPlan:
    """An average step at one resolution; bytes are what each device sends.

    clips: on all devices (of a group). flops: of them all, recomputation included. compute, send:
    seconds, one after the other; None where the peak or the bandwidth is not known.
    """

    resolution: int
    clips: int
    flops: float
    sent: int
    compute: float | None
    send: float | None

    @property
    def seconds(self) -> float | None:
        """Of a step, or None."""
        return None if self.compute is None or self.send is None else self.compute + self.send

    @property
    def videos_per_second(self) -> float | None:
        """Clips a second, on all devices."""
        return None if self.seconds is None else self.clips / self.seconds


def sent_bytes(engine: EngineChoice, params: int, devices: int) -> int:
    """Return what each device sends in a step.

    Rings (Patarasuk and Yuan, 2009): 2 (R-1)/R of the gradients for their sum, which ZeRO 1 and 2
    as DeepSpeed makes them need whole, too (`use_multi_rank_bucket_allreduce`); (R-1)/R of the
    weights to gather them where they were updated apart.
    """
    ways = 3 if engine.zero else 2
    return ways * (devices - 1) * 4 * params // devices


def speed(
    recipe: Recipe,
    space: SearchSpace,
    batches: Mapping[int, int],
    params: int,
    engine: EngineChoice,
    devices: Devices,
    precision: str,
    utilization: float,
) -> Iterator[SpeedPlan]:
    """Predict steps at each resolution of the recipe.

    Six operations for each multiply-accumulate of a forward pass, eight where activations are
    computed again (Chowdhery et al., arXiv 2204.02311, appendix B). The device with most clips is
    waited for. What an update itself takes, waiting for data, and offload's copies are left out.
    """
    peak, sent = devices.peak(precision), sent_bytes(engine, params, devices.count)
    for side, macs in subnet_macs(recipe, space).items():
        clips = batches[side]
        each = math.ceil(clips / group_size(recipe, devices))
        flops = (8 if recipe.training.gradient_checkpointing else 6) * macs
        send = sent / devices.bandwidth if devices.bandwidth else None
        yield SpeedPlan(
            resolution=side,
            clips=clips,
            flops=flops * clips,
            sent=sent,
            compute=flops * each / (peak * utilization) if peak else None,
            send=send if sent else 0.0,
        )


def training_seconds(recipe: Recipe, plans: Sequence[SpeedPlan]) -> float | None:
    """Return the seconds of all steps, each resolution as often as its weight says.

    Where groups of devices train at resolutions of their own, a step takes as long as the slowest.
    """
    total = sum(section.weight for section in recipe.resolutions.values())
    known = [(plan.seconds, plan.resolution) for plan in plans if plan.seconds is not None]
    if len(known) < len(plans):
        return None
    mean, below, groups = 0.0, 0.0, recipe.training.resolution_groups
    for seconds, side in sorted(known):
        upto = below + recipe.resolutions[side].weight / total
        mean += seconds * (upto**groups - below**groups)
        below = upto
    return mean * recipe.training.steps


def subnet_macs(recipe: Recipe, space: SearchSpace) -> dict[int, float]:
    """Return the MACs of a clip in all subnets of an average step, by resolution.

    Where a space has no formula for costs, what is neither the smallest nor the largest counts as
    halfway between, for counting each would take seconds.
    """
    shapes, sampler = recipe.shapes(), recipe.sampler.make()
    counted = not space.has_cost_formula
    found = {}
    for number, (side, shape) in enumerate(shapes.items()):
        ends = np.stack([space.encode(space.smallest), space.encode(space.largest)])
        low, high = (float(macs) for macs in space.costs(ends, shape).macs)
        known = {Role.SMALLEST: low, Role.LARGEST: high}
        rng = np.random.default_rng([recipe.seed, number])
        total, draws = 0.0, 1 if counted else DRAWS
        for n in range(draws):
            subnets = sampler.draw(Draw(space, rng, progress=(n + 0.5) / draws, shape=shape))
            if counted:
                total += sum(known.get(each.role, (low + high) / 2) for each in subnets)
            else:
                rows = np.stack([space.encode(each.arch) for each in subnets])
                total += float(space.costs(rows, shape).macs.sum())
        found[side] = total / draws
    return found
