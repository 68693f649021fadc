"""What each training step does: a pure function of (seed, step)."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import numpy as np
import torch

from nasvid.data.loader import BatchRequest
from nasvid.ranks import ALONE, Ranks
from nasvid.recipe import ResolutionSection
from nasvid.sampler import Draw, PlannedSubnet, Role, Sampler
from nasvid.space import SearchSpace
from nasvid.video import VideoShape


@dataclass(frozen=True, slots=True)
class StepPlan:
    """One step.

    clips: of all ranks together. subnets: trained on the same clips, the largest first when it is
    among them.
    """

    step: int
    resolution: int
    clips: int
    subnets: tuple[PlannedSubnet, ...]

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
    ) -> None:
        self.space, self.sampler, self.shapes = space, sampler, shapes
        self.steps, self.seed = steps, seed
        self.batches = batch_sizes(space, resolutions, shapes)
        self._sides = sorted(resolutions)
        weights = np.array([resolutions[side].weight for side in self._sides])
        self._chances = weights / weights.sum()

    def resolution(self, step: int) -> int:
        """Return the resolution of a step, drawn by the recipe's weights."""
        return int(self._rng(step, 0).choice(self._sides, p=self._chances))

    def plan(self, step: int) -> StepPlan:
        """Return what a step trains."""
        side = self.resolution(step)
        draw = Draw(
            space=self.space,
            rng=self._rng(step, 1),
            progress=step / self.steps,
            shape=self.shapes[side],
        )
        return StepPlan(step, side, self.batches[side], self.sampler.draw(draw))

    def noise_generator(self, step: int) -> torch.Generator:
        """Return the generator of a step's timesteps, noise and dropped captions."""
        seed = int(self._rng(step, 2).integers(2**62))
        return torch.Generator().manual_seed(seed)

    def model_seed(self, step: int, first: int = 0) -> int:
        """Return the seed of what a step's models draw themselves, dropout for example.

        first: number of the first clip of the step that the models are given.
        """
        return int(self._rng(step, 3, first).integers(2**62))

    def requests(self, step: int, clips: int, ranks: Ranks = ALONE) -> Iterator[BatchRequest]:
        """Yield a rank's share of each step's clips from `step` on; `clips` were used before it.

        All shares together are the step's clips, each once, however many ranks there are.
        """
        for number in range(step, self.steps):
            side = self.resolution(number)
            size = self.batches[side]
            share = ranks.share(size)
            yield BatchRequest(
                number=number,
                height=side,
                width=side,
                first=clips + share.start,
                size=len(share),
            )
            clips += size

    def _rng(self, step: int, *stream: int) -> np.random.Generator:
        return np.random.default_rng([self.seed, step, *stream])
