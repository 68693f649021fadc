"""Samplers plan what a training step trains: which subnets, at which resolution, on how many clips.

Samplers compose: one can change the step that it receives and pass it to its inner sampler
(`docs/samplers.md`). All randomness comes from the step, as a function of (seed, step): every rank
and every resumed run makes the same plan.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Iterator
from dataclasses import replace
from typing import Literal

from pydantic import Field, model_validator

from nasvid.architecture import Architecture
from nasvid.plugins.config import Config
from nasvid.plugins.plugin import C, Plugin
from nasvid.plugins.section import PluginSection
from nasvid.space import SearchSpace
from nasvid.step_plan import (
    BatchSpec,
    Floor,
    PlannedBatch,
    PlannedSubnet,
    Resolutions,
    Role,
    Step,
    StepPlan,
)

__all__ = [
    "BatchSpec",
    "CostUniform",
    "Floor",
    "PlannedBatch",
    "PlannedSubnet",
    "Resolutions",
    "Role",
    "Sampler",
    "SamplerSection",
    "Sandwich",
    "Step",
    "StepPlan",
    "Uniform",
    "WarmUp",
]


class Sampler(Plugin[C], ABC):
    """Plans training steps."""

    def check_space(self, space: SearchSpace) -> None:
        """Check before a run begins that the sampler can plan for a space, and is ready.

        Raises:
            UserError: what it reads is missing, or is not for this space.
        """
        self.check_ready()

    @abstractmethod
    def plan(self, step: Step) -> StepPlan:
        """Return what a step trains: at least one subnet, none below `step.floor`.

        Deterministic: the same step, with its generator in the same state, gives the same plan.
        `step.plan(subnets)` builds one, at resolutions drawn by their weights.
        """


class SamplerSection(PluginSection):
    """A sampler and its config."""

    kind = "samplers"

    def make(self) -> Sampler:  # pyright: ignore[reportIncompatibleMethodOverride]
        """Create the sampler."""
        return super().make()


class Uniform(Sampler):
    """Draws each choice's option uniformly."""

    def plan(self, step: Step) -> StepPlan:
        """Plan one subnet; with a floor, uniformly over the cost above it."""
        if step.floor is None:
            return step.plan([PlannedSubnet(step.space.sample(step.rng), Role.RANDOM)])
        return step.plan([_uniform_cost(step, step.floor.metric)])


class CostUniformConfig(Config):
    """Options of cost_uniform."""

    metric: Literal["params", "macs"] = "params"
    """The cost over which subnets are drawn uniformly."""


class CostUniform(Sampler[CostUniformConfig]):
    """Draws uniformly over cost: small, medium and large subnets equally often."""

    def plan(self, step: Step) -> StepPlan:
        """Plan one subnet."""
        return step.plan([_uniform_cost(step, self.config.metric)])


class SandwichConfig(Config):
    """Options of sandwich."""

    n_random: int = Field(default=1, ge=0, le=64)
    """Number of subnets from the inner sampler, trained in each step in addition to the largest and
    the smallest."""
    inner: SamplerSection = Field(default_factory=lambda: SamplerSection(name="cost_uniform"))
    """Draws these subnets and the step's resolution; unused if n_random is 0."""


class Sandwich(Sampler[SandwichConfig]):
    """The sandwich rule: the largest subnet, n from an inner sampler, and the smallest.

    Source: Yu and Huang, "Universally Slimmable Networks", arXiv 1903.05134, section 3.2. During a
    warm-up, the smallest is the smallest above the floor; an architecture drawn twice is trained
    once.
    """

    def __init__(self, config: SandwichConfig) -> None:
        super().__init__(config)
        self.inner = config.inner.make()

    def check_space(self, space: SearchSpace) -> None:
        """Check the inner sampler."""
        self.inner.check_space(space)

    def plan(self, step: Step) -> StepPlan:
        """Plan the largest, the smallest, then the inner sampler's."""
        plans = [self.inner.plan(step) for _ in range(self.config.n_random)]
        batches = plans[0].batches if plans else step.batches
        planned: dict[Architecture, PlannedSubnet] = {}
        for subnet in (*_ends(step, batches), *(each for plan in plans for each in plan.subnets)):
            planned.setdefault(subnet.arch, subnet)
        return step.plan(planned.values(), batches)


def _ends(step: Step, batches: tuple[PlannedBatch, ...]) -> Iterator[PlannedSubnet]:
    """Yield the largest architecture and the smallest that may be drawn."""
    space, floor, shape = step.space, step.floor, batches[0].shape
    yield PlannedSubnet(space.largest, Role.LARGEST)
    smallest = space.smallest
    if floor is not None:
        smallest = space.smallest_above(step.rng, floor.metric, floor.fraction, shape)
    yield PlannedSubnet(smallest, Role.SMALLEST)


class WarmUpConfig(Config):
    """Options of warm_up."""

    start: float = Field(default=0.0, ge=0, lt=1)
    """Fraction of training at which the floor begins to fall; until then only the largest subnet
    is trained."""
    end: float = Field(default=0.5, gt=0, le=1)
    """Fraction of training at which the floor reaches the smallest subnet."""
    schedule: Literal["linear", "cosine"] = "linear"
    """How the floor falls."""
    metric: Literal["params", "macs"] = "params"
    """The cost that the floor bounds."""
    inner: SamplerSection = Field(default_factory=lambda: SamplerSection(name="sandwich"))
    """Draws the subnets above the floor."""

    @model_validator(mode="after")
    def _ends_after_its_start(self) -> WarmUpConfig:
        if self.end <= self.start:
            raise ValueError(
                f"the warm-up's end {self.end:g} is not after its start {self.start:g}"
            )
        return self


class WarmUp(Sampler[WarmUpConfig]):
    """SNED's sampling warm-up: from the largest subnet to the whole space.

    The lowest cost that may be drawn starts at the largest's and falls to the smallest's over the
    first part of training. Source: arXiv 2406.00195, abstract; the schedule is our choice
    (docs/method.md).
    """

    def __init__(self, config: WarmUpConfig) -> None:
        super().__init__(config)
        self.inner = config.inner.make()

    def check_space(self, space: SearchSpace) -> None:
        """Check the inner sampler."""
        self.inner.check_space(space)

    def plan(self, step: Step) -> StepPlan:
        """Plan as the inner sampler does, above the current floor."""
        start, end = self.config.start, self.config.end
        fallen = min(max(step.progress - start, 0.0) / (end - start), 1.0)
        if fallen >= 1.0:
            return self.inner.plan(step)
        if self.config.schedule == "cosine":
            fallen = (1 - math.cos(math.pi * fallen)) / 2
        space, metric, shape = step.space, self.config.metric, step.shape
        bottom = space.cost(space.smallest, metric, shape) / space.cost(
            space.largest, metric, shape
        )
        floor = Floor(metric, 1.0 - fallen * (1.0 - bottom))
        outer = step.floor
        if outer is not None and (outer.metric != metric or outer.fraction > floor.fraction):
            floor = outer
        return self.inner.plan(replace(step, floor=floor))


def _uniform_cost(step: Step, metric: str) -> PlannedSubnet:
    """Draw uniformly over one cost, above the floor, which may bound another cost."""
    space, rng, floor, shape = step.space, step.rng, step.floor, step.shape
    if floor is None or floor.metric == metric:
        low = 0.0 if floor is None else floor.fraction
        arch = space.sample(rng, within={metric: (low, 1.0)}, shape=shape)
        return PlannedSubnet(arch, Role.RANDOM)
    least = floor.fraction * space.cost(space.largest, floor.metric, shape)
    for _ in range(32):
        arch = space.sample(rng, within={metric: (0.0, 1.0)}, shape=shape)
        if space.cost(arch, floor.metric, shape) >= least:
            return PlannedSubnet(arch, Role.RANDOM)
    arch = space.sample(rng, within={floor.metric: (floor.fraction, 1.0)}, shape=shape)
    return PlannedSubnet(arch, Role.RANDOM)
