"""The cost of a recipe's resolutions, and how many clips fit at each."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from typing import Any

from nasvid.planning.checkpointed import checkpointed_bytes
from nasvid.planning.half import half_share
from nasvid.planning.memory import CHECKPOINTED, USABLE, MemoryPlan, memory
from nasvid.planning.scenario import Scenario
from nasvid.planning.teacher import state_bytes
from nasvid.shapes import Resolution, VideoShape
from nasvid.space import SearchSpace
from nasvid.training.resources import Resources

SHOWN = tuple(map(Resolution.square, (64, 128, 256)))
"""Shown beside a recipe's own resolutions, if those are squares as well."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ShapePlan:
    """Costs at one resolution, for the smallest and the largest architecture.

    macs: of one forward pass of one clip. clip_bytes: activations that the largest stores per clip
    in training, in the recipe's precision, with gradient checkpointing if the recipe uses it.
    state_bytes: hidden states of a teacher per clip.
    batch: clips per step on all devices; None for a resolution that the recipe does not train.
    each: clips per backward pass on a device. most: how many would fit; None if unknown.
    """

    resolution: Resolution
    smallest_macs: int
    largest_macs: int
    clip_bytes: int
    state_bytes: int
    batch: int | None
    each: int | None
    most: int | None

    def to_json(self) -> dict[str, Any]:
        """Return plain values."""
        return asdict(self) | {"resolution": self.resolution.to_json()}


def shape_plans(scenario: Scenario, engine: Resources | None) -> Iterator[ShapePlan]:
    """Yield a plan for each resolution of the recipe, and for those that are shown beside it."""
    recipe, space = scenario.recipe, scenario.space
    share = _kept(scenario)
    squares = all(each.height == each.width for each in recipe.resolutions)
    for resolution in sorted({*recipe.resolutions, *(SHOWN if squares else ())}):
        shape = recipe.shape(resolution)
        if not _takes(space, shape):
            continue
        costs = space.costs(scenario.ends, shape)
        trained = scenario.planner.resolutions.get(resolution)
        clip_bytes = int(int(costs.activation_bytes[1]) * share)
        states = state_bytes(scenario, shape)
        each = None
        if trained is not None:
            each = math.ceil(trained.batch / scenario.sharing)
            each = min(each, trained.micro_batch or each)
        yield ShapePlan(
            resolution=resolution,
            smallest_macs=int(costs.macs[0]),
            largest_macs=int(costs.macs[1]),
            clip_bytes=clip_bytes,
            state_bytes=states,
            batch=trained.batch if trained else None,
            each=each,
            most=_most(memory(scenario, engine, 0), clip_bytes + states, scenario.devices.memory),
        )


def _kept(scenario: Scenario) -> float:
    """Return how much of the activations remains under checkpointing and in half precision.

    Counted at the lowest resolution, since it hardly depends on it.
    """
    space, share = scenario.space, 1.0
    shape = scenario.recipe.shape(min(scenario.recipe.resolutions))
    if scenario.recipe.training.gradient_checkpointing:
        kept = checkpointed_bytes(space, shape)
        whole = space.cost(space.largest, "activation_bytes", shape)
        share = CHECKPOINTED if kept is None else kept / whole
    return share * (half_share(space, shape) if scenario.half else 1.0)


def _most(needs: MemoryPlan, clip_bytes: int, device_bytes: int | None) -> int | None:
    """Return how many clips of a backward pass fit; None if unknown. needs: the plan for none."""
    if device_bytes is None or needs.engine is None or needs.always is None:
        return None
    left = int(USABLE * device_bytes) - needs.always
    return max(0, left - needs.activations) // clip_bytes if left >= needs.engine.update else 0


def _takes(space: SearchSpace, shape: VideoShape) -> bool:
    try:
        space.check_shape(shape)
    except ValueError:
        return False
    return True
