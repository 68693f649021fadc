"""Strategy: asks for architectures to be evaluated and is told what they scored."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from nasvid.architecture import Architecture
from nasvid.errors import UserError
from nasvid.evaluation import Evaluation
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

    objectives: names of the metrics to be optimised, `maximised` those among them of which more is
        better; `objective_values` gives all of them as numbers to be minimised.
    seed: the only source of a strategy's randomness.
    shape: of the clip that costs refer to when a strategy draws by cost.
    violation: genomes `(n, choices)` -> float64 `(n,)`: how far they miss the constraints on cost,
        0 where all hold; cheap, so that nothing infeasible need be proposed. Constraints on
        measured metrics are known only after an evaluation (`Evaluation.feasible`).
    run: the run that the search belongs to; None outside of one.
    """

    space: SearchSpace
    objectives: tuple[str, ...]
    seed: int
    shape: VideoShape
    violation: Callable[[np.ndarray], np.ndarray]
    maximised: frozenset[str] = frozenset()
    run: RunContext | None = None

    def feasible(self, genomes: np.ndarray) -> np.ndarray:
        """Return whether the constraints on cost hold: bool `(n,)` of genomes `(n, choices)`."""
        return self.violation(genomes) == 0

    def objective_values(self, evaluations: Sequence[Evaluation]) -> np.ndarray:
        """Return what n evaluations scored, to be minimised: float64 `(n, objectives)`.

        The sign of a metric to be maximised is turned. What is not known, or not finite, is inf.
        """
        signs = [-1.0 if name in self.maximised else 1.0 for name in self.objectives]
        rows = [
            [each.metrics.get(name, np.inf) for name in self.objectives] for each in evaluations
        ]
        values = np.array(rows, dtype=np.float64).reshape(-1, len(signs)) * signs
        return np.where(np.isfinite(values), values, np.inf)


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
        """Return up to n architectures to evaluate: feasible, no two alike, none asked before.

        Fewer than n, or none, when the space has no more to offer. What was asked is told before
        the next ask.
        """

    @abstractmethod
    def tell(self, results: Sequence[Evaluation]) -> None:
        """Take the results of the last `ask`, in its order."""

    # For strategies that show a search to people while it runs; others leave these alone.

    def announce(self, archs: Sequence[Architecture]) -> None:
        """Receive the architectures to be evaluated next, in this order; none known before."""

    def about(self, arch: Architecture) -> Mapping[str, str]:
        """Return what the record keeps of an architecture, whose evaluation begins."""
        del arch
        return {}

    def evaluated(self, result: Evaluation) -> None:
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
