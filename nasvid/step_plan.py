"""The plan of one training step, and what a sampler makes it from, as plain values."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from enum import StrEnum

import numpy as np

from nasvid.architecture import Architecture
from nasvid.host.streams import stream
from nasvid.shapes import Resolution, VideoShape
from nasvid.space import SearchSpace


class Role(StrEnum):
    """Why a subnet is in a step; its losses are logged and shown under this name."""

    LARGEST = "largest"
    SMALLEST = "smallest"
    RANDOM = "random"


@dataclass(frozen=True, slots=True)
class PlannedSubnet:
    """One subnet of a step."""

    arch: Architecture
    role: Role


@dataclass(frozen=True, slots=True)
class PlannedBatch:
    """The clips that one group of ranks trains the step's subnets on.

    resolution: what they are cut to. shape: of the model's input. clips: how many, over all ranks
    of the group.
    """

    resolution: Resolution
    shape: VideoShape
    clips: int


@dataclass(frozen=True, slots=True, kw_only=True)
class StepPlan:
    """One training step: a pure function of (seed, step).

    batches: one per group of ranks. subnets: trained on every batch; the largest first if it is
    among them, so that the others can learn from its prediction. largest: the space's.
    """

    step: int
    batches: tuple[PlannedBatch, ...]
    subnets: tuple[PlannedSubnet, ...]
    largest: Architecture

    @property
    def trains_largest(self) -> bool:
        """Whether the largest architecture is among the subnets: then no weight is left out."""
        return any(planned.arch == self.largest for planned in self.subnets)

    @property
    def roles(self) -> tuple[Role, ...]:
        """The roles of its subnets, without duplicates."""
        return tuple(dict.fromkeys(planned.role for planned in self.subnets))

    @property
    def clips(self) -> int:
        """Number of clips, over all groups."""
        return sum(batch.clips for batch in self.batches)


@dataclass(frozen=True, slots=True, kw_only=True)
class BatchSpec:
    """The batches of one resolution.

    weight: how often it is drawn, relative to the others. shape: of the model's input.
    batch: clips per step; for `auto` in the recipe, as many as make a step cost about the same as
    at the lowest resolution. micro_batch: clips per backward pass on a device, None for all.
    """

    weight: float
    shape: VideoShape
    batch: int
    micro_batch: int | None = None


class Resolutions(Mapping[Resolution, BatchSpec]):
    """Resolution -> its batches, ascending: a step's batches are drawn from it."""

    def __init__(self, resolutions: Mapping[Resolution, BatchSpec]) -> None:
        self._known = dict(sorted(resolutions.items()))
        if not self._known:
            raise ValueError("There must be at least one resolution")

    def __getitem__(self, resolution: Resolution) -> BatchSpec:
        return self._known[resolution]

    def __iter__(self) -> Iterator[Resolution]:
        return iter(self._known)

    def __len__(self) -> int:
        return len(self._known)

    def only(self, chosen: Iterable[Resolution]) -> Resolutions:
        """Return only the chosen ones, with their weights unchanged.

        Raises:
            KeyError: one is not among them.
        """
        return Resolutions({resolution: self[resolution] for resolution in chosen})

    def draw(self, rng: np.random.Generator) -> Resolution:
        """Draw a resolution by weight."""
        weights = np.array([each.weight for each in self.values()])
        return [*self][rng.choice(len(self), p=weights / weights.sum())]


@dataclass(frozen=True, slots=True)
class Floor:
    """The lowest cost that may be drawn: a fraction of the largest's, in one metric."""

    metric: str
    fraction: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Step:
    """A step to plan: a sampler receives it, and passes it on to its inner sampler.

    number: of the step, out of `steps`. rng: the step's generator, for everything but resolutions.
    groups: how many groups of ranks there are, each with its own batch. floor: no smaller subnet
    may be drawn.
    """

    number: int
    steps: int
    seed: int
    space: SearchSpace
    resolutions: Resolutions
    rng: np.random.Generator
    groups: int = 1
    floor: Floor | None = None

    @property
    def progress(self) -> float:
        """Fraction of training that is finished, in [0, 1)."""
        return self.number / self.steps

    @property
    def batches(self) -> tuple[PlannedBatch, ...]:
        """Each group's batch, its resolution drawn by weight; the same at every access."""
        drawn = [
            self.resolutions.draw(stream(self.seed, "resolution", self.number, group))
            for group in range(self.groups)
        ]
        return tuple(
            PlannedBatch(
                resolution, self.resolutions[resolution].shape, self.resolutions[resolution].batch
            )
            for resolution in drawn
        )

    @property
    def shape(self) -> VideoShape:
        """The shape that costs refer to while subnets are drawn: the first group's."""
        return self.batches[0].shape

    def plan(
        self, subnets: Iterable[PlannedSubnet], batches: tuple[PlannedBatch, ...] | None = None
    ) -> StepPlan:
        """Return the plan that trains these subnets, the largest moved to the front.

        batches: None for the step's own `batches`.
        """
        largest = self.space.largest
        return StepPlan(
            step=self.number,
            batches=self.batches if batches is None else batches,
            subnets=tuple(sorted(subnets, key=lambda planned: planned.arch != largest)),
            largest=largest,
        )
