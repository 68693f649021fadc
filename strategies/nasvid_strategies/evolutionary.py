"""Evolutionary search: NSGA-II, with a predictor that chooses which children are evaluated."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import numpy as np
from pydantic import Field

from nasvid.architecture import Architecture
from nasvid.evaluation import Evaluation
from nasvid.host.streams import stream
from nasvid.plugins.config import Config
from nasvid.strategy import Problem, Strategy
from nasvid_strategies.breeding import Breeding
from nasvid_strategies.nsga2 import Evolution
from nasvid_strategies.predicted import Promising
from nasvid_strategies.unasked import Unasked


class EvolutionaryConfig(Config):
    """Options of evolutionary."""

    population: int = Field(default=16, ge=2, le=10**4)
    """Architectures that survive each generation, and the number of their children."""
    crossover: float = Field(default=0.9, ge=0, le=1)
    """Probability that a child takes its options from two parents instead of one."""
    mutations: float = Field(default=2.0, gt=0, le=1000)
    """Mean number of options that are redrawn in each child."""
    predictor: Literal["none", "ridge", "gaussian_process"] = "gaussian_process"
    """What predicts measured objectives. Children are evolved against its predictions for a while,
    and those evaluated that promise to improve the front most."""
    unpredicted: float = Field(default=0.25, ge=0, le=1)
    """Share of the children that the predictor does not choose."""


class Evolutionary(Strategy[EvolutionaryConfig]):
    """NSGA-II: crosses and mutates nondominated architectures, guided by a predictor.

    The first generation is spread evenly over the cost and includes both ends. Each later one has
    as many children as the population has members; a child that is a duplicate or violates a
    constraint on cost is replaced. Architectures that violate a measured constraint stay in the
    population, but lose to any that satisfies it.

    The predictor is refitted to all results before each generation, and used if it predicts what
    it was not fitted to. Costs are not predicted: they are known.
    """

    def __init__(self, config: EvolutionaryConfig, problem: Problem) -> None:
        super().__init__(config, problem)
        self._unasked = Unasked(problem, stream(problem.seed, "proposals"))
        breeding = Breeding(config.crossover, config.mutations)
        self._evolution = Evolution(
            self._unasked, size=config.population, breeding=breeding, seed=problem.seed
        )
        self._promising = (
            None
            if config.predictor == "none"
            else Promising(problem, config.predictor, breeding, self._unasked)
        )
        self._to_ask = self._decoded(self._first_generation())
        self._told: list[Evaluation] = []

    def ask(self, n: int) -> list[Architecture]:
        """Return up to n architectures of the current generation, or of the next if it is done."""
        if not self._to_ask:
            self._to_ask = self._decoded(self._next_generation())
        asked, self._to_ask = self._to_ask[:n], self._to_ask[n:]
        return asked

    def tell(self, results: Sequence[Evaluation]) -> None:
        """Collect results until the generation is complete, then select the survivors."""
        self._told += results
        if self._told and not self._to_ask:
            self._evolution.tell(
                np.stack([self.problem.space.encode(result.arch) for result in self._told]),
                self.problem.objective_values(self._told),
                np.array([result.violation for result in self._told]),
            )
            if self._promising:
                self._promising.tell(self._told)
            self._told = []

    def _first_generation(self) -> list[np.ndarray]:
        space = self.problem.space
        ends = np.stack([space.encode(space.smallest), space.encode(space.largest)])
        ends = ends[self._unasked.take(ends)]
        return [*ends, *self._unasked.draw(self.config.population - len(ends))]

    def _next_generation(self) -> list[np.ndarray]:
        """Return what the predictor chooses, then children, and random genomes if too few."""
        n, genomes = self.config.population, []
        if self._promising:
            genomes += self._promising.take(n - round(n * self.config.unpredicted))
        genomes += self._evolution.children(n - len(genomes))
        return genomes + self._unasked.draw(n - len(genomes))

    def _decoded(self, genomes: Sequence[np.ndarray]) -> list[Architecture]:
        return [self.problem.space.decode(genome) for genome in genomes]
