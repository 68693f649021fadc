"""The time of training steps, from peaks and bandwidths that are stated."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from nasvid.host.cards import Devices
from nasvid.planning.scenario import Scenario
from nasvid.recipe.sections import Recipe
from nasvid.training.planner import Planner
from nasvid.training.resources import Resources

UTILIZATION = 0.35
"""Share of the peak that products are assumed to reach."""
DRAWS = 32
"""Steps that are drawn, evenly over the training, to know what a step costs on average."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SpeedPlan:
    """An average step at one resolution.

    clips: on all devices (of a group). flops: of them all, recomputation included. sent: bytes that
    each device sends, None where the engine does not say. compute, send: seconds, one after the
    other; None where the peak, the bytes or the bandwidth are not known.
    """

    resolution: int
    clips: int
    flops: float
    sent: int | None
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


def speed_plans(
    scenario: Scenario, engine: Resources | None, utilization: float
) -> Iterator[SpeedPlan]:
    """Predict steps at each resolution of the recipe.

    Six operations for each multiply-accumulate of a forward pass, eight where activations are
    computed again (Chowdhery et al., arXiv 2204.02311, appendix B). The device with most clips is
    waited for. What an update itself takes, waiting for data, and copies to the host are left out.
    """
    recipe, peak = scenario.recipe, scenario.peak
    for side, macs in subnet_macs(scenario.planner).items():
        clips = scenario.planner.resolutions[side].batch
        each = math.ceil(clips / scenario.sharing)
        flops = (8 if recipe.training.gradient_checkpointing else 6) * macs
        yield SpeedPlan(
            resolution=side,
            clips=clips,
            flops=flops * clips,
            sent=None if engine is None else engine.sent,
            compute=flops * each / (peak * utilization) if peak else None,
            send=_send(engine, scenario.devices),
        )


def _send(engine: Resources | None, devices: Devices) -> float | None:
    """Return the seconds that sending takes."""
    if devices.count == 1:
        return 0.0
    if engine is None or devices.bandwidth is None:
        return None
    return engine.sent / devices.bandwidth


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


def subnet_macs(planner: Planner) -> dict[int, float]:
    """Return the MACs of a clip in all subnets of an average step, by resolution.

    Where a space has no formula for costs, what is neither the smallest nor the largest counts as
    halfway between, for counting each would take seconds.
    """
    space = planner.space
    counted = not space.has_cost_formula
    ends = np.stack([space.encode(space.smallest), space.encode(space.largest)])
    found = {}
    for side, resolution in planner.resolutions.items():
        low, high = (float(macs) for macs in space.costs(ends, resolution.shape).macs)
        known = {space.smallest: low, space.largest: high}
        steps = _spread(planner.steps, 1 if counted else DRAWS)
        total = 0.0
        for step in steps:
            archs = [planned.arch for planned in planner.only(side).plan(step).subnets]
            if counted:
                total += sum(known.get(arch, (low + high) / 2) for arch in archs)
            else:
                rows = np.stack([space.encode(arch) for arch in archs])
                total += float(space.costs(rows, resolution.shape).macs.sum())
        found[side] = total / len(steps)
    return found


def _spread(steps: int, n: int) -> list[int]:
    """Return `n` steps, evenly over the training."""
    return [int((i + 0.5) / n * steps) for i in range(n)]
