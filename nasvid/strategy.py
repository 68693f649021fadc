"""Strategy: asks for architectures to be judged and is told what they scored."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from nasvid.architecture import Architecture
from nasvid.errors import UserError
from nasvid.plugins.plugin import C, Plugin
from nasvid.plugins.section import PluginSection
from nasvid.shapes import VideoShape
from nasvid.space import SearchSpace


@dataclass(frozen=True, slots=True)
class RunContext:
    """The run that a search belongs to.

    name: the recipe's. folder: for what the strategy keeps between calls, below the run's; what is
    in its `page.json`, a `title` and the `verb` that shows it, is named in the report.
    say: shows people a line.
    """

    name: str
    folder: Path
    say: Callable[[str], None]


@dataclass(frozen=True, slots=True)
class Problem:
    """What a strategy searches.

    objectives: names of the metrics to be minimised (a metric that is to be maximised reaches the
        strategy with its sign turned).
    seed: the only source of a strategy's randomness.
    shape: of the clip that costs refer to when a strategy draws by cost.
    violation: genomes `(n, choices)` -> float64 `(n,)`: how far they miss the constraints on cost,
        0 where all hold; cheap, so that nothing infeasible need be proposed. Constraints on
        measured metrics are known only after judging (`Judged.feasible`).
    run: the run that the search belongs to; None outside of one.
    """

    space: SearchSpace
    objectives: tuple[str, ...]
    seed: int
    shape: VideoShape
    violation: Callable[[np.ndarray], np.ndarray]
    run: RunContext | None = None

    def feasible(self, genomes: np.ndarray) -> np.ndarray:
        """Return whether the constraints on cost hold: bool `(n,)` of genomes `(n, choices)`."""
        return self.violation(genomes) == 0


@dataclass(frozen=True, slots=True)
class Judged:
    """One architecture and what it scored.

    objectives: float64 `(len(problem.objectives),)`, each to be minimised; inf where it is not
        known, and then `violation` is above 0.
    violation: how far the constraints are missed, relative; 0 when all hold, inf when a metric is
        not finite.
    metrics: all that was measured, by name; empty where nothing was.
    """

    arch: Architecture
    objectives: np.ndarray
    violation: float
    metrics: Mapping[str, float] = field(default_factory=dict)

    @property
    def feasible(self) -> bool:
        """Whether every constraint holds."""
        return self.violation <= 0


class Strategy(Plugin[C], ABC):
    """A search strategy: a deterministic function of (problem, what it was told).

    So a search is resumed by telling a fresh strategy the recorded results again: there is no
    state to save.
    """

    def __init__(self, config: C, problem: Problem) -> None:
        super().__init__(config)
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

    # For strategies that show a search to people while it runs; others leave these alone.

    def announce(self, archs: Sequence[Architecture]) -> None:
        """Hear which architectures will be judged next, in this order; not those known before."""

    def about(self, arch: Architecture) -> Mapping[str, str]:
        """Hear that an announced architecture is now judged; return what the record keeps of it."""
        del arch
        return {}

    def judged(self, result: Judged) -> None:
        """Hear what it scored, right away."""

    def close(self) -> None:
        """End what the search has started; called once, however it ends."""

    @classmethod
    def show(cls, run: RunContext, options: Mapping[str, Any]) -> AbstractContextManager[str]:
        """Show a finished search while the context lasts; it is the address to look at.

        run: as the search was given. options: the strategy's, as in the recipe.

        Raises:
            UserError: there is nothing to show.
        """
        del run, options
        raise UserError(f"{cls.__name__} has no page of its own to keep up: see the report")


class StrategySection(PluginSection):
    """A search strategy and its options."""

    kind = "strategies"

    def make(self, problem: Problem) -> Strategy:  # pyright: ignore[reportIncompatibleMethodOverride]
        """Make the strategy for what it searches."""
        return super().make(problem)
