"""Strategy: proposes architectures to evaluate, and receives their evaluations."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar, Generic

import numpy as np
from typing_extensions import TypeVar

from nasvid.architecture import Architecture
from nasvid.errors import UserError
from nasvid.evaluation import Evaluation
from nasvid.plugins.config import Config
from nasvid.plugins.plugin import C, Plugin
from nasvid.plugins.section import PluginSection
from nasvid.shapes import VideoShape
from nasvid.space import SearchSpace

D = TypeVar("D", bound=Config, default=Config)
"""The config of the observed strategy."""


@dataclass(frozen=True, slots=True)
class RunContext:
    """The run that a search belongs to.

    name: the recipe's.
    folder: for files of the strategy and its observer, inside the run's. A `page.json` there, with
        a `title` and the `verb` that shows the page, is mentioned in the report.
    print: prints a line for people.
    """

    name: str
    folder: Path
    print: Callable[[str], None]


@dataclass(frozen=True, slots=True)
class Problem:
    """The problem that a strategy solves.

    objectives: names of the metrics to optimise; `maximised` names those to maximise;
        `objective_values` returns all of them as numbers to minimise.
    seed: the only source of a strategy's randomness.
    shape: of the clip that costs refer to when a strategy draws by cost.
    violation: genomes `(n, choices)` -> float64 `(n,)`: violation of the constraints on cost, 0 if
        all hold; fast, so that a strategy can check each proposal. Constraints on measured metrics
        are known only after an evaluation (`Evaluation.feasible`).
    costs: the costs among the objectives and in the constraints, which are known before an
        evaluation: name -> function from genomes `(n, choices)` to float64 `(n,)`, exact and fast.
    limits: name of a cost -> the lowest and the highest value that the constraints allow.
    run: the run that the search belongs to; None outside a run.
    """

    space: SearchSpace
    objectives: tuple[str, ...]
    seed: int
    shape: VideoShape
    violation: Callable[[np.ndarray], np.ndarray]
    maximised: frozenset[str] = frozenset()
    costs: Mapping[str, Callable[[np.ndarray], np.ndarray]] = field(default_factory=dict)
    limits: Mapping[str, tuple[float, float]] = field(default_factory=dict)
    run: RunContext | None = None

    def feasible(self, genomes: np.ndarray) -> np.ndarray:
        """Return whether the constraints on cost hold: bool `(n,)` of genomes `(n, choices)`."""
        return self.violation(genomes) == 0

    def objective_values(self, evaluations: Sequence[Evaluation]) -> np.ndarray:
        """Return the objectives of n evaluations, to be minimised: float64 `(n, objectives)`.

        Metrics to maximise are negated. A value that is unknown or not finite is inf.
        """
        signs = [-1.0 if name in self.maximised else 1.0 for name in self.objectives]
        rows = [
            [each.metrics.get(name, np.inf) for name in self.objectives] for each in evaluations
        ]
        values = np.array(rows, dtype=np.float64).reshape(-1, len(signs)) * signs
        return np.where(np.isfinite(values), values, np.inf)


class Strategy(Plugin[C], ABC):
    """A search strategy: a deterministic function of (problem, received evaluations).

    A search is therefore resumed by replaying the recorded evaluations to a new strategy; there is
    no state to save.
    """

    Observer: ClassVar[type[SearchObserver[Any]] | None] = None
    """Shows this strategy's searches to people; most strategies have none."""

    def __init__(self, config: C, problem: Problem) -> None:
        super().__init__(config)
        self.problem = problem

    @abstractmethod
    def ask(self, n: int) -> list[Architecture]:
        """Return up to n architectures to evaluate: feasible, distinct, none returned before.

        Fewer than n, or none, if the space is exhausted. `tell` is called with their evaluations
        before the next ask.
        """

    @abstractmethod
    def tell(self, results: Sequence[Evaluation]) -> None:
        """Receive the evaluations of the last `ask`, in its order."""


class SearchObserver(ABC, Generic[D]):
    """Shows the searches of a strategy to people, while they run and afterwards.

    `class Mine(Strategy[MineConfig])` names it: `Observer = MineObserver`, which derives from
    `SearchObserver[MineConfig]`. Each search creates one and closes it, however the search ends.
    It only watches: without it, a search has the same result.
    """

    def __init__(self, strategy: Strategy[D]) -> None:
        """Prepare to observe the search of a strategy, before it begins."""
        self.config = strategy.config
        self.problem = strategy.problem

    def proposed(self, archs: Sequence[Architecture]) -> None:
        """Receive the architectures that will be evaluated next, in this order.

        Called after every `ask`, without those that are already recorded, so possibly with none.
        """

    def evaluating(self, arch: Architecture) -> Mapping[str, str]:
        """Receive the architecture about to be evaluated; return notes for the record.

        They become `Evaluation.about`.
        """
        del arch
        return {}

    def evaluated(self, evaluation: Evaluation) -> None:
        """Receive an evaluation as soon as it is recorded."""

    def close(self) -> None:
        """Release everything that the observer has started."""

    @classmethod
    @abstractmethod
    def page(cls, config: D, run: RunContext) -> AbstractContextManager[str]:
        """Serve the page of a finished search inside the context; its value is the URL to open.

        Raises:
            UserError: there is nothing to show.
        """


class StrategySection(PluginSection):
    """A search strategy and its config."""

    kind = "strategies"

    def make(self, problem: Problem) -> Strategy:  # pyright: ignore[reportIncompatibleMethodOverride]
        """Create the strategy for a problem."""
        return super().make(problem)

    def check_page(self) -> None:
        """Raise UserError if the strategy has no page."""
        if self.cls.Observer is None:
            raise UserError(f"Strategy '{self.name}' has no page of its own; see the report")

    def page(self, run: RunContext) -> AbstractContextManager[str]:
        """Serve the page of a finished search inside the context; its value is the URL to open.

        Raises:
            UserError: the strategy has no page, or there is nothing to show.
        """
        self.check_page()
        return self.cls.Observer.page(self.config, run)
