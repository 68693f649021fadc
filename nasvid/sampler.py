"""Samplers: which subnets a training step trains, at which resolution.

A sampler is a composable value. All randomness comes from the generator it is handed, which the
training loop derives from (seed, step): every rank and every resumed run draws the same plan.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from dataclasses import dataclass, replace
from enum import StrEnum
from typing import Literal

import numpy as np
from pydantic import Field, model_validator

from nasvid.architecture import Architecture
from nasvid.plugins.config import Config
from nasvid.plugins.plugin import C, Plugin
from nasvid.plugins.section import PluginSection
from nasvid.shapes import VideoShape
from nasvid.space import SearchSpace


class Role(StrEnum):
    """Why a subnet is in a step; with in-place distillation the others learn from `LARGEST`."""

    LARGEST = "largest"
    SMALLEST = "smallest"
    RANDOM = "random"


@dataclass(frozen=True, slots=True)
class PlannedSubnet:
    """One subnet of a step."""

    arch: Architecture
    role: Role


@dataclass(frozen=True, slots=True)
class Floor:
    """The lowest cost that may be drawn: a fraction of the largest's, in one metric."""

    metric: str
    fraction: float


@dataclass(frozen=True, slots=True)
class Draw:
    """What a sampler draws from.

    progress: fraction of the training done, in [0, 1).
    shape: of the step's clips; costs in MACs refer to it.
    floor: set by a warm-up further out; nothing cheaper may be drawn.
    """

    space: SearchSpace
    rng: np.random.Generator
    progress: float
    shape: VideoShape
    floor: Floor | None = None


class Sampler(Plugin[C], ABC):
    """Draws the subnets of one training step."""

    @abstractmethod
    def draw(self, draw: Draw) -> tuple[PlannedSubnet, ...]:
        """Return at least one subnet, none cheaper than `draw.floor`.

        Deterministic: the same arguments and generator state give the same subnets.
        """


class SamplerSection(PluginSection):
    """A sampler and its options."""

    kind = "samplers"

    def make(self) -> Sampler:  # pyright: ignore[reportIncompatibleMethodOverride]
        """Make the sampler."""
        return super().make()


class Uniform(Sampler):
    """Each option of each choice with equal chance."""

    def draw(self, draw: Draw) -> tuple[PlannedSubnet, ...]:
        """Return one subnet; under a floor, one of uniform cost above it."""
        if draw.floor is None:
            return (PlannedSubnet(draw.space.sample(draw.rng), Role.RANDOM),)
        return (_uniform_cost(draw, draw.floor.metric),)


class CostUniformConfig(Config):
    """Options of cost_uniform."""

    metric: Literal["params", "macs"] = "params"
    """The cost over which draws are uniform."""


class CostUniform(Sampler[CostUniformConfig]):
    """Uniform over cost: small, middle and large networks are drawn equally often."""

    def draw(self, draw: Draw) -> tuple[PlannedSubnet, ...]:
        """Return one subnet."""
        return (_uniform_cost(draw, self.config.metric),)


class SandwichConfig(Config):
    """Options of sandwich."""

    n_random: int = Field(default=1, ge=0)
    """Subnets from the inner sampler, beside the largest and the smallest."""
    inner: SamplerSection = Field(default_factory=lambda: SamplerSection(name="cost_uniform"))
    """Where they come from."""


class Sandwich(Sampler[SandwichConfig]):
    """The sandwich rule: the largest, n from an inner sampler, the smallest.

    Source: Yu and Huang, "Universally Slimmable Networks", arXiv 1903.05134, section 3.2. Under a
    warm-up's floor the smallest is the cheapest that may be drawn; a network that is drawn twice
    is trained once.
    """

    def __init__(self, config: SandwichConfig) -> None:
        super().__init__(config)
        self.inner = config.inner.make()

    def draw(self, draw: Draw) -> tuple[PlannedSubnet, ...]:
        """Return the largest first, so that the others can learn from its prediction."""
        space = draw.space
        inner = [subnet for _ in range(self.config.n_random) for subnet in self.inner.draw(draw)]
        smallest = space.smallest
        if draw.floor is not None:
            smallest = space.cheapest_above(
                draw.rng, draw.floor.metric, draw.floor.fraction, draw.shape
            )
        ends = (PlannedSubnet(space.largest, Role.LARGEST), PlannedSubnet(smallest, Role.SMALLEST))
        planned: dict[Architecture, PlannedSubnet] = {}
        for subnet in (*ends, *inner):
            planned.setdefault(subnet.arch, subnet)
        return tuple(planned.values())


class WarmUpConfig(Config):
    """Options of warm_up."""

    start: float = Field(default=0.0, ge=0, lt=1)
    """Part of the training before the floor begins to fall: only the largest is trained."""
    end: float = Field(default=0.5, gt=0, le=1)
    """Part of the training after which the floor has fallen."""
    schedule: Literal["linear", "cosine"] = "linear"
    """How it falls."""
    metric: Literal["params", "macs"] = "params"
    """The cost that has the floor."""
    inner: SamplerSection = Field(default_factory=lambda: SamplerSection(name="sandwich"))
    """What draws above the floor."""

    @model_validator(mode="after")
    def _ends_after_its_start(self) -> WarmUpConfig:
        if self.end <= self.start:
            raise ValueError(f"warm-up ends at {self.end:g}, not after its start {self.start:g}")
        return self


class WarmUp(Sampler[WarmUpConfig]):
    """SNED's sampling warm-up: from the full net to the whole space.

    The lowest cost that may be drawn starts at the largest network's and falls to the smallest's
    over the first part of training. Source: arXiv 2406.00195, abstract; the shape of the fall is
    our choice (docs/method.md).
    """

    def __init__(self, config: WarmUpConfig) -> None:
        super().__init__(config)
        self.inner = config.inner.make()

    def draw(self, draw: Draw) -> tuple[PlannedSubnet, ...]:
        """Return the inner sampler's subnets, none below the floor of this moment."""
        start, end = self.config.start, self.config.end
        fallen = min(max(draw.progress - start, 0.0) / (end - start), 1.0)
        if fallen >= 1.0:
            return self.inner.draw(draw)
        if self.config.schedule == "cosine":
            fallen = (1 - math.cos(math.pi * fallen)) / 2
        space, metric = draw.space, self.config.metric
        bottom = space.cost(space.smallest, metric, draw.shape) / space.cost(
            space.largest, metric, draw.shape
        )
        floor = Floor(metric, 1.0 - fallen * (1.0 - bottom))
        outer = draw.floor
        if outer is not None and (outer.metric != metric or outer.fraction > floor.fraction):
            floor = outer
        return self.inner.draw(replace(draw, floor=floor))


def _uniform_cost(draw: Draw, metric: str) -> PlannedSubnet:
    """Draw uniformly over one cost, above the floor, which may be one of another cost."""
    floor = draw.floor
    if floor is None or floor.metric == metric:
        low = 0.0 if floor is None else floor.fraction
        arch = draw.space.sample(draw.rng, within={metric: (low, 1.0)}, shape=draw.shape)
        return PlannedSubnet(arch, Role.RANDOM)
    least = floor.fraction * draw.space.cost(draw.space.largest, floor.metric, draw.shape)
    for _ in range(32):
        arch = draw.space.sample(draw.rng, within={metric: (0.0, 1.0)}, shape=draw.shape)
        if draw.space.cost(arch, floor.metric, draw.shape) >= least:
            return PlannedSubnet(arch, Role.RANDOM)
    arch = draw.space.sample(
        draw.rng, within={floor.metric: (floor.fraction, 1.0)}, shape=draw.shape
    )
    return PlannedSubnet(arch, Role.RANDOM)
