"""Evolutionary search: NSGA-II, with pymoo's selection and survival, on genomes of the space.

Source: Deb et al., "A fast and elitist multiobjective genetic algorithm: NSGA-II", IEEE
Transactions on Evolutionary Computation 6(2), 2002.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from pydantic import Field
from pymoo.algorithms.moo.nsga2 import NSGA2, binary_tournament
from pymoo.core.crossover import Crossover
from pymoo.core.duplicate import DuplicateElimination
from pymoo.core.evaluator import Evaluator
from pymoo.core.mating import Mating
from pymoo.core.mutation import Mutation
from pymoo.core.population import Population
from pymoo.core.problem import Problem as Searched
from pymoo.core.termination import NoTermination
from pymoo.operators.selection.tournament import TournamentSelection
from pymoo.problems.static import StaticProblem

from nasvid.architecture import Architecture
from nasvid.evaluation import Evaluation
from nasvid.host.streams import stream
from nasvid.plugins.config import Config
from nasvid.space import SearchSpace
from nasvid.strategy import Problem, Strategy
from nasvid_strategies.unasked import Unasked


class EvolutionaryConfig(Config):
    """Options of evolutionary."""

    population: int = Field(default=16, ge=2, le=10**4)
    """Architectures that survive each generation, and the number of their children."""
    crossover: float = Field(default=0.9, ge=0, le=1)
    """Probability that a child takes its options from two parents instead of one."""
    mutations: float = Field(default=2.0, gt=0, le=1000)
    """Mean number of options that are redrawn in each child."""


class Evolutionary(Strategy[EvolutionaryConfig]):
    """NSGA-II: crosses and mutates nondominated architectures.

    The first generation is spread evenly over the cost and includes both ends. Each later one has
    as many children as the population has members; a child that is a duplicate or violates a
    constraint on cost is replaced. Architectures that violate a measured constraint stay in the
    population, but lose to any that satisfies it.
    """

    def __init__(self, config: EvolutionaryConfig, problem: Problem) -> None:
        super().__init__(config, problem)
        self._unasked = Unasked(problem, stream(problem.seed, "proposals"))
        self._searched = Searched(
            n_var=len(problem.space.choices), n_obj=len(problem.objectives), n_ieq_constr=1
        )
        self._algorithm = NSGA2(
            pop_size=config.population,
            sampling=self._first_generation(),  # pyright: ignore[reportArgumentType]
            mating=Mating(
                TournamentSelection(func_comp=binary_tournament),
                _Cross(problem.space, config.crossover),
                _Mutate(problem.space, config.mutations),
                eliminate_duplicates=_OnlyNew(self._unasked),
            ),
            eliminate_duplicates=False,
            seed=problem.seed,
        )
        self._algorithm.setup(self._searched, termination=NoTermination())
        self._to_ask: list[Architecture] = []
        self._told: list[Evaluation] = []

    def ask(self, n: int) -> list[Architecture]:
        """Return up to n architectures of the current generation, or of the next if it is done."""
        if not self._to_ask:
            self._to_ask = self._next_generation()
        asked, self._to_ask = self._to_ask[:n], self._to_ask[n:]
        return asked

    def tell(self, results: Sequence[Evaluation]) -> None:
        """Collect results until the generation is complete, then select the survivors."""
        self._told += results
        if self._told and not self._to_ask:
            space = self.problem.space
            generation = Population.new(X=np.stack([space.encode(r.arch) for r in self._told]))
            scores = StaticProblem(
                self._searched,
                F=self.problem.objective_values(self._told),
                G=np.array([[r.violation] for r in self._told]),
            )
            Evaluator().eval(scores, generation)
            self._algorithm.tell(infills=generation)
            self._told = []

    def _first_generation(self) -> np.ndarray:
        space = self.problem.space
        ends = np.stack([space.encode(space.smallest), space.encode(space.largest)])
        ends = ends[self._unasked.take(ends)]
        genomes = [*ends, *self._unasked.draw(self.config.population - len(ends))]
        return np.array(genomes, dtype=np.int64).reshape(-1, len(space.choices))

    def _next_generation(self) -> list[Architecture]:
        """Return pymoo's children, filled up with random ones if there are too few."""
        children = self._algorithm.ask()
        genomes = [] if children is None else list(children.get("X"))
        genomes += self._unasked.draw(self.config.population - len(genomes))
        return [self.problem.space.decode(genome) for genome in genomes]


class _Cross(Crossover):
    def __init__(self, space: SearchSpace, chance: float) -> None:
        super().__init__(n_parents=2, n_offsprings=1, prob=chance)
        self.space = space

    def _do(
        self, problem: Any, X: np.ndarray, *args: Any, random_state: Any = None, **kwargs: Any
    ) -> Any:
        return self.space.cross(random_state, X[0], X[1])[None]


class _Mutate(Mutation):
    def __init__(self, space: SearchSpace, mutations: float) -> None:
        super().__init__()
        self.space = space
        self.rate = min(1.0, mutations / len(space.choices))

    def _do(
        self, problem: Any, X: np.ndarray, *args: Any, random_state: Any = None, **kwargs: Any
    ) -> np.ndarray:
        return self.space.mutate(random_state, X, self.rate)


class _OnlyNew(DuplicateElimination):
    """Drops children that are infeasible or duplicates; pymoo replaces them."""

    def __init__(self, unasked: Unasked) -> None:
        super().__init__()
        self.unasked = unasked

    def do(self, pop: Any, *args: Any, **kwargs: Any) -> Any:
        return pop[self.unasked.take(pop.get("X"))]
