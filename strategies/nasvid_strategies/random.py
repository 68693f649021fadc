"""Random search: the baseline that every other strategy has to beat."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import numpy as np

from nasvid.architecture import Architecture
from nasvid.evaluation import Evaluation
from nasvid.plugins.config import Config
from nasvid.strategy import Problem, Strategy
from nasvid_strategies.unasked import Unasked


class RandomConfig(Config):
    """Options of random."""

    metric: Literal["params", "macs"] = "params"
    """The cost over which samples are uniform."""


class RandomSearch(Strategy[RandomConfig]):
    """Random architectures, uniform over cost; uniform options would rarely give a small one."""

    def __init__(self, config: RandomConfig, problem: Problem) -> None:
        super().__init__(config, problem)
        self._unasked = Unasked(problem, np.random.default_rng(problem.seed), config.metric)

    def ask(self, n: int) -> list[Architecture]:
        """Return n new architectures, or all that the space has left."""
        return [self.problem.space.decode(genome) for genome in self._unasked.draw(n)]

    def tell(self, results: Sequence[Evaluation]) -> None:
        """Learn nothing."""
