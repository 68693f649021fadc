"""The laws of a sampler, as a test class to derive from."""

from __future__ import annotations

from typing import ClassVar

import numpy as np

from nasvid.sampler import Draw, Floor, PlannedSubnet, Role, Sampler
from nasvid.space import SearchSpace
from nasvid.testing.base import Conformance
from nasvid.testing.randomness import untouched_randomness
from nasvid.testing.toy import SHAPES, ToySpace

SHAPE = SHAPES[max(SHAPES)]
MOMENTS = (0.0, 0.2, 0.5, 0.999)
"""Progress of the training at which draws are checked."""


class SamplerConformance(Conformance):
    """Derive, name the sampler, and pytest checks every law of a sampler.

    class TestMine(SamplerConformance):
        sampler = Mine
    """

    sampler: ClassVar[type[Sampler]]
    """The class under test."""

    def space(self) -> SearchSpace:
        """Return the space to draw from; some hundred networks by default."""
        return ToySpace.of()

    def make(self) -> Sampler:
        """Return the sampler."""
        return self.made(self.sampler)

    def draws(self, seed: int = 0, floor: Floor | None = None) -> list[tuple[PlannedSubnet, ...]]:
        """Return some steps' subnets at each of `MOMENTS`."""
        space, sampler, rng = self.space(), self.make(), np.random.default_rng(seed)
        return [
            sampler.draw(Draw(space=space, rng=rng, progress=moment, shape=SHAPE, floor=floor))
            for moment in MOMENTS
            for _ in range(8)
        ]

    def test_draws_canonical_architectures_no_two_alike(self) -> None:
        """A step trains at least one subnet, and none twice."""
        space = self.space()
        for planned in self.draws():
            archs = [subnet.arch for subnet in planned]
            assert len(archs) > 0
            assert len(set(archs)) == len(archs)
            assert all(space.architecture(arch) == arch for arch in archs)

    def test_roles_are_true(self) -> None:
        """What is called the largest is the largest, and the largest is called so first."""
        largest = self.space().largest
        for planned in self.draws():
            roles = [subnet.role for subnet in planned]
            assert all(s.arch == largest for s in planned if s.role is Role.LARGEST)
            assert Role.LARGEST not in roles[1:]

    def test_is_a_function_of_its_generator(self) -> None:
        """Every rank and every resumed run draws the same; global random state has no part."""
        found = []
        for state in (1, 2):
            with untouched_randomness(state):
                found.append(self.draws(seed=3))
        assert found[0] == found[1]

    def test_respects_the_floor_of_a_warm_up_further_out(self) -> None:
        """Nothing cheaper than the floor is drawn, in either cost, up to the full net alone."""
        space = self.space()
        for metric in ("params", "macs"):
            top = space.cost(space.largest, metric, SHAPE)
            for fraction in (0.25, 0.7, 1.0):
                for planned in self.draws(floor=Floor(metric, fraction)):
                    costs = [space.cost(subnet.arch, metric, SHAPE) for subnet in planned]
                    assert min(costs) >= fraction * top
