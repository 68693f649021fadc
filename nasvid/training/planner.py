"""Plans of a recipe's steps: what each trains, and which clips each rank reads for it."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from functools import cache, cached_property, lru_cache
from typing import Any

from nasvid.architecture import Architecture
from nasvid.data.loader import BatchRequest
from nasvid.distributed.ranks import ALONE, Ranks
from nasvid.errors import UserError
from nasvid.host.streams import stream
from nasvid.recipe.sections import Recipe, ResolutionSection
from nasvid.sampler import (
    BatchSpec,
    PlannedSubnet,
    Resolutions,
    Role,
    Sampler,
    Step,
    StepPlan,
)
from nasvid.shapes import Resolution, VideoShape
from nasvid.space import SearchSpace

AHEAD = 1024
"""Number of cached plans: a plan is made to request clips, and used again to train on them."""
LATE = 3
"""Last steps of training, which decide whether most steps train the largest subnet."""


def resolutions_of(
    space: SearchSpace,
    sections: Mapping[Resolution, ResolutionSection],
    shapes: Mapping[Resolution, VideoShape],
) -> Resolutions:
    """Return the recipe's resolutions with the batch of each.

    `auto` is the largest batch that costs at most as many MACs of the largest subnet as a step at
    the lowest resolution, and at least one clip.
    """
    lowest = min(sections)
    base = sections[lowest].batch
    assert isinstance(base, int), "the recipe's validation demands it"
    step_cost = base * space.cost(space.largest, "macs", shapes[lowest])

    def batch(resolution: Resolution) -> int:
        given = sections[resolution].batch
        if given != "auto":
            return given
        return max(1, step_cost // space.cost(space.largest, "macs", shapes[resolution]))

    return Resolutions(
        {
            resolution: BatchSpec(
                weight=section.weight,
                shape=shapes[resolution],
                batch=batch(resolution),
                micro_batch=section.micro_batch,
            )
            for resolution, section in sections.items()
        }
    )


@dataclass(frozen=True, kw_only=True)
class Planner:
    """Plans steps without state: every rank and every resumed run gets the same plans.

    groups: number of groups of ranks, each with its own batch in every step.
    """

    space: SearchSpace
    sampler: Sampler
    resolutions: Resolutions
    steps: int
    seed: int
    groups: int = 1

    @classmethod
    def of(cls, recipe: Recipe, space: SearchSpace) -> Planner:
        """Make the planner of a recipe's training."""
        return cls(
            space=space,
            sampler=recipe.sampler.make(),
            resolutions=resolutions_of(space, recipe.resolutions, recipe.shapes()),
            steps=recipe.training.steps,
            seed=recipe.seed,
            groups=recipe.training.resolution_groups,
        )

    def only(self, resolution: Resolution) -> Planner:
        """Return a planner of the same steps, all at one resolution."""
        return replace(self, resolutions=self.resolutions.only([resolution]))

    def plan(self, step: int) -> StepPlan:
        """Return what a step trains."""
        return self._planned(step)

    @cached_property
    def _planned(self) -> Callable[[int], StepPlan]:
        """Plan a step, or return its recently made plan."""
        return lru_cache(maxsize=AHEAD)(self._checked_plan)

    def _checked_plan(self, number: int) -> StepPlan:
        plan: Any = self.sampler.plan(self._step(number))
        name = f"Sampler {type(self.sampler).__name__}"
        if not isinstance(plan, StepPlan) or not plan.subnets:
            raise UserError(
                f"{name} must return step.plan(subnets) with at least one subnet, not {plan!r:.80}"
            )
        for planned in plan.subnets:
            if not isinstance(planned, PlannedSubnet):
                raise UserError(
                    f"{name} plans {planned!r:.80}, which is no PlannedSubnet(arch, role)"
                )
            if not isinstance(planned.arch, Architecture):
                raise UserError(
                    f"{name} plans {planned.arch!r:.80}, which is not an architecture; make one "
                    "with step.space.architecture(options), or draw one with "
                    "step.space.sample(step.rng)"
                )
        archs = [planned.arch for planned in plan.subnets]
        if len(set(archs)) < len(archs):
            raise UserError(f"{name} plans an architecture twice in step {number}; plan it once")
        return plan

    def _step(self, number: int) -> Step:
        return Step(
            number=number,
            steps=self.steps,
            seed=self.seed,
            space=self.space,
            resolutions=self.resolutions,
            rng=stream(self.seed, "subnets", number),
            groups=self.groups,
        )

    @property
    def trains_largest(self) -> bool:
        """Whether steps late in training, like most, train the largest subnet."""
        late = range(max(0, self.steps - LATE), self.steps)
        return all(self.plan(step).trains_largest for step in late)

    def requests(self, step: int, clips: int, ranks: Ranks = ALONE) -> Iterator[BatchRequest]:
        """Yield a rank's share of each step's clips, starting at `step`.

        clips: number used before that step. A step has one request for each group that the rank
        belongs to. Together, the ranks' shares contain each of the step's clips once, for any
        number of ranks.
        """
        mine = dict(ranks.groups(self.groups))
        for number in range(step, self.steps):
            for group, batch in enumerate(self.plan(number).batches):
                if group in mine:
                    share = mine[group].share(batch.clips)
                    first = clips + share.start
                    whole = range(clips, clips + batch.clips)
                    yield BatchRequest(number, batch.resolution, first, len(share), whole)
                clips += batch.clips


class Alone(Sampler):
    """Plans the largest architecture alone in every step, on the clips of another planner's step.

    Those of each step are kept, since planning a whole step takes time: one sampler serves for the
    trainings of many architectures.
    """

    def __init__(self, planner: Planner) -> None:
        super().__init__(self.Config())
        self._batches = cache(lambda number: planner.plan(number).batches)

    def plan(self, step: Step) -> StepPlan:
        """Plan the largest."""
        largest = PlannedSubnet(step.space.largest, Role.LARGEST)
        return step.plan([largest], self._batches(step.number))
