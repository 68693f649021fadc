"""What each training step does: a pure function of (seed, step)."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import numpy as np
import torch

from nasvid.data.loader import BatchRequest
from nasvid.distributed.ranks import ALONE, Ranks
from nasvid.recipe.sections import Recipe, ResolutionSection
from nasvid.sampler import Draw, PlannedSubnet, Role, Sampler
from nasvid.shapes import VideoShape
from nasvid.space import SearchSpace


@dataclass(frozen=True, slots=True)
class StepPlan:
    """One step of a group of ranks.

    clips: of all its ranks together. subnets: the same in all groups, trained
    on the same clips, the largest first when it is among them.
    """

    step: int
    resolution: int
    clips: int
    subnets: tuple[PlannedSubnet, ...]

    @property
    def roles(self) -> tuple[Role, ...]:
        """The roles of its subnets, each once."""
        return tuple(dict.fromkeys(planned.role for planned in self.subnets))

    @property
    def whole(self) -> bool:
        """Whether the largest subnet is trained, so that no weight is inactive."""
        return any(subnet.role is Role.LARGEST for subnet in self.subnets)


def batch_sizes(
    space: SearchSpace,
    resolutions: Mapping[int, ResolutionSection],
    shapes: Mapping[int, VideoShape],
) -> dict[int, int]:
    """Return the clips of a step at each resolution.

    `auto` gives as many as cost at most what a step of the lowest resolution costs, in MACs of
    the largest subnet, and at least one.
    """
    lowest = min(resolutions)
    base = resolutions[lowest].batch
    assert isinstance(base, int), "the recipe's validation demands it"
    step_cost = base * space.cost(space.largest, "macs", shapes[lowest])
    sizes = {}
    for side, section in sorted(resolutions.items()):
        if section.batch == "auto":
            sizes[side] = max(1, step_cost // space.cost(space.largest, "macs", shapes[side]))
        else:
            sizes[side] = section.batch
    return sizes


class Planner:
    """Plans steps without state: every rank and every resumed run gets the same answers."""

    def __init__(
        self,
        space: SearchSpace,
        sampler: Sampler,
        resolutions: Mapping[int, ResolutionSection],
        shapes: Mapping[int, VideoShape],
        *,
        steps: int,
        seed: int,
        groups: int = 1,
    ) -> None:
        self.space, self.sampler, self.shapes = space, sampler, shapes
        self.steps, self.seed, self.groups = steps, seed, groups
        self.batches = batch_sizes(space, resolutions, shapes)
        self._sides = sorted(resolutions)
        weights = np.array([resolutions[side].weight for side in self._sides])
        self._chances = weights / weights.sum()

    def resolution(self, step: int, group: int = 0) -> int:
        """Return the resolution of a step of a group, drawn by the recipe's weights."""
        return int(self._rng(step, 0, group).choice(self._sides, p=self._chances))

    def plan(self, step: int, group: int = 0) -> StepPlan:
        """Return what a step trains in a group."""
        draw = Draw(
            space=self.space,
            rng=self._rng(step, 1),
            progress=step / self.steps,
            shape=self.shapes[self.resolution(step)],
        )
        side = self.resolution(step, group)
        return StepPlan(step, side, self.batches[side], self.sampler.draw(draw))

    def clips(self, step: int) -> int:
        """Return how many clips a step takes, of all groups."""
        return sum(self.batches[self.resolution(step, group)] for group in range(self.groups))

    def noise_generator(self, step: int, group: int = 0) -> torch.Generator:
        """Return the generator of a step's timesteps, noise and dropped captions in a group."""
        seed = int(self._rng(step, 2, group).integers(2**62))
        return torch.Generator().manual_seed(seed)

    def model_seed(self, step: int, group: int = 0, first: int = 0) -> int:
        """Return the seed of what a step's models draw themselves, dropout for example.

        first: number of the first clip of the group that the models are given.
        """
        return int(self._rng(step, 3, group, first).integers(2**62))

    def requests(self, step: int, clips: int, ranks: Ranks = ALONE) -> Iterator[BatchRequest]:
        """Yield a rank's share of each step's clips from `step` on; `clips` were used before it.

        One request for each group that the rank is in. All shares together are the step's clips,
        each once, however many ranks there are.
        """
        mine = dict(ranks.groups(self.groups))
        for number in range(step, self.steps):
            for group in range(self.groups):
                side = self.resolution(number, group)
                size = self.batches[side]
                if group in mine:
                    share = mine[group].share(size)
                    first = clips + share.start
                    yield BatchRequest(number, side, side, first, len(share))
                clips += size

    def _rng(self, step: int, stream: int, *more: int) -> np.random.Generator:
        return np.random.default_rng([self.seed, step, stream, *more])


def trains_largest(recipe: Recipe, space: SearchSpace) -> bool:
    """Return whether a step late in training, like most, trains the largest subnet."""
    sampler: Sampler = recipe.sampler.make()
    shape = recipe.shapes()[min(recipe.resolutions)]
    draw = Draw(space, np.random.default_rng(recipe.seed), progress=0.999, shape=shape)
    return any(subnet.role is Role.LARGEST for subnet in sampler.draw(draw))
