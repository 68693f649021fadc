"""NSGA-II with pymoo's selection and survival, on genomes of a space.

Source: Deb et al., "A fast and elitist multiobjective genetic algorithm: NSGA-II", IEEE
Transactions on Evolutionary Computation 6(2), 2002.
"""

from __future__ import annotations

from typing import Any

import numpy as np
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

from nasvid.space import SearchSpace
from nasvid_strategies.breeding import Breeding
from nasvid_strategies.unasked import Unasked


class Evolution:
    """One evolution: a population, its children, and what survives.

    Children are taken from `unasked`, so they are feasible and new.
    """

    def __init__(self, unasked: Unasked, *, size: int, breeding: Breeding, seed: int) -> None:
        space, objectives = unasked.problem.space, unasked.problem.objectives
        self._searched = Searched(n_var=len(space.choices), n_obj=len(objectives), n_ieq_constr=1)
        self._algorithm = NSGA2(
            pop_size=size,
            mating=Mating(
                TournamentSelection(func_comp=binary_tournament),
                _Cross(space, breeding.crossover),
                _Mutate(space, breeding.rate(space)),
                eliminate_duplicates=_OnlyNew(unasked),
            ),
            eliminate_duplicates=False,
            seed=seed,
        )
        self._algorithm.setup(self._searched, termination=NoTermination())

    def children(self, n: int) -> list[np.ndarray]:
        """Return up to n children of the population, taken; none before the first `tell`."""
        if n == 0 or not self._algorithm.is_initialized:
            return []
        self._algorithm.n_offsprings = n
        children = self._algorithm.ask()
        return [] if children is None else list(children.get("X"))

    def tell(self, genomes: np.ndarray, values: np.ndarray, violations: np.ndarray) -> None:
        """Select the survivors among the population and a new generation.

        genomes: `(n, choices)`. values: `(n, objectives)`, to be minimised. violations: `(n,)`.
        """
        generation = Population.new(X=genomes)
        scores = StaticProblem(self._searched, F=values, G=violations[:, None])
        Evaluator().eval(scores, generation)
        self._algorithm.tell(infills=generation)


class _Cross(Crossover):
    def __init__(self, space: SearchSpace, chance: float) -> None:
        super().__init__(n_parents=2, n_offsprings=1, prob=chance)
        self.space = space

    def _do(
        self, problem: Any, X: np.ndarray, *args: Any, random_state: Any = None, **kwargs: Any
    ) -> Any:
        return self.space.cross(random_state, X[0], X[1])[None]


class _Mutate(Mutation):
    def __init__(self, space: SearchSpace, rate: float) -> None:
        super().__init__()
        self.space = space
        self.rate = rate

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
