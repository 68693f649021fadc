from collections.abc import Callable, Sequence

import numpy as np
import pytest

from nasvid.architecture import Architecture
from nasvid.evaluator import Context, Evaluator, Metric, Metrics
from nasvid.metrics.cost import Cost, CostConfig
from nasvid.search.goals import Goals
from nasvid.testing.toy import SHAPES, ToySpace, toy_context


class Formula(Evaluator):
    """A loss from the architecture alone, and how often it was worked out."""

    metrics = (Metric("loss", "", reference=1.0),)

    def __init__(self, context: Context) -> None:
        super().__init__(None, context)
        self.evaluated: list[str] = []
        self.broken: set[str] = set()

    def evaluate(self, architectures: Sequence[Architecture]) -> list[Metrics]:
        return [self._one(arch) for arch in architectures]

    def _one(self, arch: Architecture) -> Metrics:
        self.evaluated.append(arch.id)
        capacity = sum(float(option) for option in arch.values())
        chance = np.random.default_rng(int(arch.id, 16)).random(len(SHAPES))
        losses = np.array([1.0 / capacity + 0.1 * c for c in chance])
        if arch.id in self.broken:
            losses[-1] = np.nan
        sides = {f"loss@{side}": float(x) for side, x in zip(SHAPES, losses, strict=True)}
        return {"loss": float(losses.mean()), **sides}


@pytest.fixture
def space() -> ToySpace:
    return ToySpace.of()


@pytest.fixture
def formula(space: ToySpace) -> Formula:
    return Formula(toy_context(space))


@pytest.fixture
def evaluators(formula: Formula) -> list[Evaluator]:
    return [Cost(CostConfig(), formula.context), formula]


@pytest.fixture
def goals_of(space: ToySpace, evaluators: list[Evaluator]) -> Callable[..., Goals]:
    """Make goals from objectives and constraints."""

    def make(objectives: Sequence[str] = ("loss", "macs"), *constraints: str) -> Goals:
        return Goals.of(space, SHAPES, evaluators, objectives, constraints)

    return make
