"""The time of training steps, from stated peaks and bandwidths."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from nasvid.host.cards import Devices
from nasvid.planning import teacher
from nasvid.planning.scenario import Scenario
from nasvid.recipe.sections import Recipe
from nasvid.shapes import Resolution
from nasvid.training.planner import Planner
from nasvid.training.resources import Resources

UTILIZATION = 0.35
"""Assumed share of the peak that products reach."""
DRAWS = 32
"""Steps, evenly spaced over the training, that the mean cost of a step is estimated from."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SpeedPlan:
    """An average step at one resolution.

    clips: on all devices (of a group). flops: for all clips, including recomputation. sent: bytes
    that each device sends; None if the engine does not report them. compute, send: seconds, not
    overlapped; None if the peak, the bytes or the bandwidth is unknown.
    """

    resolution: Resolution
    clips: int
    flops: float
    sent: int | None
    compute: float | None
    send: float | None

    @property
    def seconds(self) -> float | None:
        """Seconds per step; None if unknown."""
        return None if self.compute is None or self.send is None else self.compute + self.send

    @property
    def videos_per_second(self) -> float | None:
        """Clips per second on all devices; None if unknown."""
        return None if self.seconds is None else self.clips / self.seconds

    def to_json(self) -> dict[str, Any]:
        """Return plain values."""
        return asdict(self) | {
            "resolution": self.resolution.to_json(),
            "seconds": self.seconds,
            "videos_per_second": self.videos_per_second,
        }


def speed_plans(
    scenario: Scenario, engine: Resources | None, utilization: float
) -> Iterator[SpeedPlan]:
    """Predict steps at each resolution of the recipe.

    A step takes six operations per multiply-accumulate of a forward pass, or eight if activations
    are recomputed (Chowdhery et al., arXiv 2204.02311, appendix B), and two for those of a teacher,
    which has no backward pass. The device with the most clips
    sets the time. The update itself, waiting for data, and copies to the host are not included.
    """
    recipe, peak = scenario.recipe, scenario.peak
    for resolution, macs in subnet_macs(scenario.planner).items():
        trained = scenario.planner.resolutions[resolution]
        clips = trained.batch
        each = math.ceil(clips / scenario.sharing)
        flops = (8 if recipe.training.gradient_checkpointing else 6) * macs
        flops += teacher.flops(scenario, trained.shape)
        yield SpeedPlan(
            resolution=resolution,
            clips=clips,
            flops=flops * clips,
            sent=None if engine is None else engine.sent,
            compute=flops * each / (peak * utilization) if peak else None,
            send=_send(engine, scenario.devices),
        )


def _send(engine: Resources | None, devices: Devices) -> float | None:
    """Return the seconds that communication takes; None if unknown."""
    if devices.count == 1:
        return 0.0
    if engine is None or devices.bandwidth is None:
        return None
    return engine.sent / devices.bandwidth


def training_seconds(recipe: Recipe, plans: Sequence[SpeedPlan]) -> float | None:
    """Return the seconds of all steps, with each resolution weighted as in the recipe.

    If groups of devices train at different resolutions, the slowest group sets the time.
    """
    total = sum(section.weight for section in recipe.resolutions.values())
    known = [(plan.seconds, plan.resolution) for plan in plans if plan.seconds is not None]
    if len(known) < len(plans):
        return None
    mean, below, groups = 0.0, 0.0, recipe.training.resolution_groups
    for seconds, resolution in sorted(known):
        upto = below + recipe.resolutions[resolution].weight / total
        mean += seconds * (upto**groups - below**groups)
        below = upto
    return mean * recipe.training.steps


def subnet_macs(planner: Planner) -> dict[Resolution, float]:
    """Return the MACs of a clip in all subnets of an average step, by resolution.

    If a space has no cost formula, every architecture between the smallest and the largest counts
    as the mean of the two, because counting each would take seconds.
    """
    space = planner.space
    counted = not space.has_cost_formula
    ends = np.stack([space.encode(space.smallest), space.encode(space.largest)])
    found = {}
    for resolution, spec in planner.resolutions.items():
        low, high = (float(macs) for macs in space.costs(ends, spec.shape).macs)
        known = {space.smallest: low, space.largest: high}
        steps = _spread(planner.steps, 1 if counted else DRAWS)
        total = 0.0
        for step in steps:
            archs = [planned.arch for planned in planner.only(resolution).plan(step).subnets]
            if counted:
                total += sum(known.get(arch, (low + high) / 2) for arch in archs)
            else:
                rows = np.stack([space.encode(arch) for arch in archs])
                total += float(space.costs(rows, spec.shape).macs.sum())
        found[resolution] = total / len(steps)
    return found


def _spread(steps: int, n: int) -> list[int]:
    """Return `n` steps, evenly spaced over the training."""
    return [int((i + 0.5) / n * steps) for i in range(n)]
