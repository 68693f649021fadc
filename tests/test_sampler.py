from typing import Any, ClassVar

import numpy as np
import pytest

from nasvid.sampler import (
    CostUniform,
    PlannedSubnet,
    Role,
    Sampler,
    Sandwich,
    Step,
    Uniform,
    WarmUp,
)
from nasvid.testing.sampler import RESOLUTIONS, STEPS, SamplerConformance, step_of
from nasvid.testing.toy import LARGE, SHAPES, ToySpace


class TestUniform(SamplerConformance):
    sampler = Uniform


class TestCostUniform(SamplerConformance):
    sampler = CostUniform
    options: ClassVar = {"metric": "macs"}


class TestSandwich(SamplerConformance):
    sampler = Sandwich
    options: ClassVar = {"n_random": 2}


class TestWarmUp(SamplerConformance):
    sampler = WarmUp


class TestWarmUpWithinASandwich(SamplerConformance):
    sampler = Sandwich
    options: ClassVar = {"n_random": 2, "inner": {"name": "warm_up", "metric": "macs"}}


SHAPE = SHAPES[LARGE]
SPACE = ToySpace.of(widths=tuple(range(2, 34)), blocks=6)
"""Fine enough in cost for a draw to be near any target."""
TOP = SPACE.cost(SPACE.largest, "params", SHAPE)
BOTTOM = SPACE.cost(SPACE.smallest, "params", SHAPE)
EVEN = 0.14
"""Distance from uniform below which draws count as such: 400 truly uniform ones stay below 0.08 in
99 of 100 cases, and a block that switches on as a whole is a step of up to a tenth of the cost."""


def make(cls: type[Sampler], **options: Any) -> Sampler:
    return cls(cls.Config.model_validate(options))


def draw(sampler: Sampler, progress: float = 0.0, seed: int = 0) -> tuple[PlannedSubnet, ...]:
    return sampler.plan(step_at(progress, SPACE, seed)).subnets


def step_at(progress: float, space: ToySpace, seed: int) -> Step:
    """A step at one resolution, whose subnets are the seed's alone."""
    number, rng = round(progress * STEPS), np.random.default_rng(seed)
    return step_of(space, number, resolutions=RESOLUTIONS.only([LARGE]), rng=rng)


def costs(sampler: Sampler, n: int, progress: float = 0.0, metric: str = "params") -> np.ndarray:
    drawn = [draw(sampler, progress, seed)[-1].arch for seed in range(n)]
    return SPACE.costs(np.stack([SPACE.encode(arch) for arch in drawn]), SHAPE)[metric]


def distance_from_uniform(values: np.ndarray, low: float, high: float) -> float:
    """Return the Kolmogorov-Smirnov distance to the uniform distribution on [low, high]."""
    share = np.sort((values - low) / (high - low))
    steps = np.arange(len(share) + 1) / len(share)
    return max(np.abs(share - steps[1:]).max(), np.abs(share - steps[:-1]).max())


@pytest.mark.parametrize("metric", ["params", "macs"])
def test_cost_uniform_is_uniform_over_the_cost_where_uniform_is_not(metric: str) -> None:
    low, high = (SPACE.cost(arch, metric, SHAPE) for arch in (SPACE.smallest, SPACE.largest))
    even = costs(make(CostUniform, metric=metric), 400, metric=metric)
    plain = costs(make(Uniform), 400, metric=metric)
    assert distance_from_uniform(even, low, high) < EVEN
    assert distance_from_uniform(plain, low, high) > 0.25


def test_networks_of_one_cost_differ_in_make() -> None:
    rng = np.random.default_rng(0)
    drawn = [SPACE.sample(rng, within={"params": (0.45, 0.55)}, shape=SHAPE) for _ in range(40)]
    assert len(set(drawn)) > 35
    assert len({arch["width"] for arch in drawn}) >= 4


def test_a_sandwich_is_the_largest_the_smallest_and_n_others() -> None:
    steps = [draw(make(Sandwich, n_random=3), seed=seed) for seed in range(20)]
    for largest, smallest, *others in steps:
        assert largest == PlannedSubnet(SPACE.largest, Role.LARGEST)
        assert smallest == PlannedSubnet(SPACE.smallest, Role.SMALLEST)
        assert {subnet.role for subnet in others} == {Role.RANDOM}
    assert np.median([len(planned) for planned in steps]) == 5
    assert [subnet.role for subnet in draw(make(Sandwich, n_random=0))] == ["largest", "smallest"]


def test_a_sandwich_trains_a_network_drawn_twice_once() -> None:
    tiny = ToySpace.of(widths=(2,), blocks=1)
    for seed in range(20):
        planned = make(Sandwich, n_random=5).plan(step_at(0.0, tiny, seed)).subnets
        assert [subnet.arch for subnet in planned] == [tiny.largest, tiny.smallest]
        assert [subnet.role for subnet in planned] == [Role.LARGEST, Role.SMALLEST]


@pytest.mark.parametrize("schedule", ["linear", "cosine"])
def test_warm_up_begins_with_the_full_network_alone(schedule: str) -> None:
    sampler = make(WarmUp, schedule=schedule, start=0.3)
    for progress in (0.0, 0.2, 0.3):
        for seed in range(10):
            planned = draw(sampler, progress, seed)
            assert planned == (PlannedSubnet(SPACE.largest, Role.LARGEST),)
    assert len(draw(sampler, 0.4)) > 1


def test_the_floor_falls_linearly_and_then_the_smallest_is_trained() -> None:
    sampler = make(WarmUp, end=0.8)
    for progress in (0.1, 0.3, 0.5, 0.7):
        floor = TOP - (TOP - BOTTOM) * progress / 0.8
        lowest = min(
            SPACE.cost(subnet.arch, "params", SHAPE)
            for seed in range(30)
            for subnet in draw(sampler, progress, seed)
        )
        assert floor <= lowest < floor + 0.1 * (TOP - BOTTOM)
    for progress in (0.8, 0.999):
        smallest = draw(sampler, progress)[1]
        assert smallest == PlannedSubnet(SPACE.smallest, Role.SMALLEST)


def test_the_cosine_floor_leaves_and_arrives_gently() -> None:
    def lowest(schedule: str, progress: float) -> float:
        sampler = make(WarmUp, schedule=schedule, end=1.0)
        planned = [subnet for seed in range(30) for subnet in draw(sampler, progress, seed)]
        return min(SPACE.cost(subnet.arch, "params", SHAPE) for subnet in planned)

    assert lowest("cosine", 0.2) > lowest("linear", 0.2)
    assert lowest("cosine", 0.8) < lowest("linear", 0.8)


def test_draws_under_the_floor_are_uniform_over_what_is_left() -> None:
    sampler = make(WarmUp, end=1.0, inner={"name": "cost_uniform"})
    values = costs(sampler, 400, progress=0.5)
    floor = TOP - (TOP - BOTTOM) * 0.5
    assert distance_from_uniform(values, floor, TOP) < EVEN


def test_an_unreachable_range_says_what_is_reachable() -> None:
    rng = np.random.default_rng(0)
    tiny = ToySpace.of(widths=(2, 64), blocks=0)
    low, high = (tiny.cost(arch, "params", SHAPE) for arch in (tiny.smallest, tiny.largest))
    for bounds in ((low + 1, high - 1), (0.4, 0.6), (high + 1, high * 2), (high - 1, low + 1)):
        with pytest.raises(ValueError, match=f"ranges from {low} to {high}"):
            tiny.sample(rng, within={"params": bounds}, shape=SHAPE)
    with pytest.raises(ValueError, match="'flops' is not a cost; use one of params, macs"):
        tiny.sample(rng, within={"flops": (0, 1)}, shape=SHAPE)


@pytest.mark.parametrize(
    "options",
    [{"n_random": -1}, {"inner": {"name": "cost_uniform", "x": 1}}],
)
def test_wrong_options_are_errors(options: dict) -> None:
    with pytest.raises(ValueError, match=r"n_random|x"):
        make(Sandwich, **options)


def test_a_warm_up_that_ends_before_it_starts_is_an_error() -> None:
    with pytest.raises(ValueError, match=r"end 0.2 is not after its start 0.5"):
        make(WarmUp, start=0.5, end=0.2)


def test_an_unknown_inner_sampler_is_an_error_with_the_nearest() -> None:
    with pytest.raises(ValueError, match="did you mean 'sandwich'"):
        make(WarmUp, inner={"name": "sandwitch"})
