"""A sampler of one's own that plans no architectures."""

import pytest

from nasvid.errors import UserError
from nasvid.plugins.config import Config
from nasvid.sampler import PlannedSubnet, Role, Sampler
from nasvid.shapes import Resolution, VideoShape
from nasvid.step_plan import BatchSpec, Resolutions
from nasvid.testing.toy import ToySpace
from nasvid.training.planner import Planner


class Plain(Sampler):
    def plan(self, step):
        options = {choice.name: choice.options[0] for choice in step.space.choices}
        return step.plan([PlannedSubnet(options, Role.RANDOM)])


def test_what_a_sampler_plans_must_be_architectures() -> None:
    shape = VideoShape.square(4, frames=2, context_len=2)
    planner = Planner(
        space=ToySpace.of(),
        sampler=Plain(Config()),
        resolutions=Resolutions({Resolution.square(4): BatchSpec(weight=1, shape=shape, batch=1)}),
        steps=2,
        seed=0,
    )
    with pytest.raises(UserError, match=r"Sampler Plain plans .*space\.architecture"):
        planner.plan(0)
