"""Strategy: asks for architectures to be judged and is told what they scored."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from nasvid.architecture import Architecture
from nasvid.config import Config
from nasvid.space import SearchSpace
from nasvid.video import VideoShape


@dataclass(frozen=True, slots=True)
class Problem:
    """What a strategy searches.

    objectives: names of the metrics to be minimised (a metric that is to be maximised reaches the
        strategy with its sign turned).
    seed: the only source of a strategy's randomness.
    shape: of the clip that costs refer to when a strategy draws by cost.
    feasible: genomes `(n, choices)` -> bool `(n,)`: whether the constraints on cost hold; cheap,
        so that nothing infeasible need be proposed. Constraints on measured metrics are known
        only after judging (`Judged.feasible`).
    """

    space: SearchSpace
    objectives: tuple[str, ...]
    seed: int
    shape: VideoShape
    feasible: Callable[[np.ndarray], np.ndarray]


@dataclass(frozen=True, slots=True)
class Judged:
    """One architecture and what it scored.

    objectives: float64 `(len(problem.objectives),)`, each to be minimised; inf where it is not
        known, and then `violation` is above 0.
    violation: how far the constraints are missed, relative; 0 when all hold, inf when a metric is
        not finite.
    """

    arch: Architecture
    objectives: np.ndarray
    violation: float

    @property
    def feasible(self) -> bool:
        """Whether every constraint holds."""
        return self.violation <= 0


class Strategy(ABC):
    """A search strategy: a deterministic function of (problem, what it was told).

    So a search is resumed by telling a fresh strategy the recorded results again: there is no
    state to save.
    """

    Config: ClassVar[type[Config]] = Config
    """The strategy's options in a recipe."""

    def __init__(self, config: Any, problem: Problem) -> None:
        self.config = config
        self.problem = problem

    @abstractmethod
    def ask(self, n: int) -> list[Architecture]:
        """Return up to n architectures to judge: feasible, no two alike, none asked before.

        Fewer than n, or none, when the space has no more to offer. What was asked is told before
        the next ask.
        """

    @abstractmethod
    def tell(self, results: Sequence[Judged]) -> None:
        """Take the results of the last `ask`, in its order."""
