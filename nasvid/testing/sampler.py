"""The rules of a sampler, as a test class to derive from."""

from __future__ import annotations

from typing import Any, ClassVar

from nasvid.host.streams import stream
from nasvid.sampler import BatchSpec, Floor, Resolutions, Role, Sampler, Step, StepPlan
from nasvid.space import SearchSpace
from nasvid.testing.base import Conformance
from nasvid.testing.randomness import untouched_randomness
from nasvid.testing.toy import LARGE, SHAPES, SMALL, ToySpace

STEPS = 1000
"""Steps of the planned training."""
MOMENTS = (0, 200, 500, STEPS - 8)
"""Steps at which plans are checked, each together with the next seven."""
RESOLUTIONS = Resolutions(
    {
        resolution: BatchSpec(weight=weight, shape=SHAPES[resolution], batch=batch)
        for resolution, weight, batch in ((SMALL, 2.0, 8), (LARGE, 1.0, 2))
    }
)


def step_of(space: SearchSpace, number: int, **changes: Any) -> Step:
    """Return step `number` of `STEPS` at `RESOLUTIONS`."""
    seed = changes.pop("seed", 0)
    values = {
        "number": number,
        "steps": STEPS,
        "seed": seed,
        "space": space,
        "resolutions": RESOLUTIONS,
        "rng": stream(seed, "subnets", number),
    }
    return Step(**(values | changes))


class SamplerConformance(Conformance):
    """Derive from it, set `sampler`, and pytest checks every rule of a sampler.

    class TestMine(SamplerConformance):
        sampler = Mine
    """

    sampler: ClassVar[type[Sampler]]
    """The class under test."""

    def space(self) -> SearchSpace:
        """Return the space to plan for; a few hundred architectures by default."""
        return ToySpace.of()

    def make(self) -> Sampler:
        """Return the sampler."""
        return self.made(self.sampler)

    def plans(self, **changes: Any) -> list[StepPlan]:
        """Return the plans of eight steps from each of `MOMENTS` on.

        changes: fields of `Step` to replace, for example `seed=3`.
        """
        space, sampler = self.space(), self.make()
        numbers = [moment + i for moment in MOMENTS for i in range(8)]
        return [sampler.plan(step_of(space, number, **changes)) for number in numbers]

    def test_plans_canonical_architectures_no_two_alike(self) -> None:
        """A step trains at least one subnet and none twice."""
        space = self.space()
        for plan in self.plans():
            archs = [subnet.arch for subnet in plan.subnets]
            assert len(archs) > 0
            assert len(set(archs)) == len(archs)
            assert all(space.architecture(arch) == arch for arch in archs)

    def test_roles_are_true(self) -> None:
        """The role `largest` belongs to the largest, which comes first if it is trained."""
        largest = self.space().largest
        for plan in self.plans():
            archs = [subnet.arch for subnet in plan.subnets]
            assert all(s.arch == largest for s in plan.subnets if s.role is Role.LARGEST)
            assert largest not in archs[1:]
            assert plan.trains_largest == (archs[0] == largest)

    def test_each_group_of_ranks_has_a_batch_at_a_resolution_of_the_recipe(self) -> None:
        """Each batch has at least one clip of that resolution's shape."""
        for groups in (1, 3):
            for number, plan in zip(MOMENTS, self.plans(groups=groups)[::8], strict=True):
                assert plan.step == number
                assert len(plan.batches) == groups
                for batch in plan.batches:
                    assert batch.shape == RESOLUTIONS[batch.resolution].shape
                    assert batch.clips >= 1

    def test_plans_within_the_resolutions_that_it_is_given(self) -> None:
        """An outer sampler, such as a curriculum, can restrict them."""
        for resolution in RESOLUTIONS:
            for plan in self.plans(resolutions=RESOLUTIONS.only([resolution])):
                assert {batch.resolution for batch in plan.batches} == {resolution}

    def test_is_a_function_of_seed_and_step(self) -> None:
        """Every rank and every resumed run makes the same plan; global random state is not used."""
        found = []
        for state in (1, 2):
            with untouched_randomness(state):
                found.append(self.plans(seed=3))
        assert found[0] == found[1]

    def test_respects_the_floor_of_an_outer_warm_up(self) -> None:
        """No planned subnet costs less than the floor, for both costs and up to the largest."""
        space = self.space()
        for metric in ("params", "macs"):
            for fraction in (0.25, 0.7, 1.0):
                for plan in self.plans(floor=Floor(metric, fraction)):
                    shape = plan.batches[0].shape
                    top = space.cost(space.largest, metric, shape)
                    costs = [space.cost(subnet.arch, metric, shape) for subnet in plan.subnets]
                    assert min(costs) >= fraction * top
