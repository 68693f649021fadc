"""The memory and the work of a frozen teacher, which a recipe trains its subnets with."""

from __future__ import annotations

import torch

from nasvid.costs import built_on_meta, dummy_input, run_on_meta
from nasvid.planning.scenario import Scenario
from nasvid.shapes import VideoShape
from nasvid.training.teacher import watched

FLOPS = 2
"""Operations per multiply-accumulate of a forward pass without a backward pass."""


def weight_bytes(scenario: Scenario) -> int:
    """Return the bytes of the teacher's weights; 0 without one. It has no gradients or moments."""
    if scenario.recipe.training.teacher is None:
        return 0
    return scenario.work.params * (2 if scenario.half else 4)


def state_bytes(scenario: Scenario, shape: VideoShape) -> int:
    """Return the bytes of the teacher's hidden states that a step keeps for one clip.

    Raises:
        NoValuesError: the models cannot run on the `meta` device.
    """
    section, space = scenario.recipe.training.teacher, scenario.space
    if section is None or not section.features:
        return 0
    model = built_on_meta(lambda: space.build(space.largest)).eval()
    points = set(space.feature_points(space.largest).values())
    with run_on_meta(), torch.no_grad(), watched(model, points) as found:
        space.denoise(model, dummy_input(shape, space.domain))
    return sum(state.numel() for state in found.values()) * (2 if scenario.half else 4)


def flops(scenario: Scenario, shape: VideoShape) -> float:
    """Return the operations of the teacher's forward pass of one clip; 0 without a teacher."""
    if scenario.recipe.training.teacher is None:
        return 0.0
    return FLOPS * float(scenario.space.costs(scenario.ends[1:], shape).macs[0])
