"""Architectures that a strategy has not proposed yet."""

from __future__ import annotations

import math

import numpy as np

from nasvid.space import SearchSpace
from nasvid.strategy import Problem

TRIES = 64
"""Random draws before the remaining space is enumerated."""
POOL = 16_384
"""Size up to which a space is enumerated; from a larger one, as many genomes are sampled."""


class Unasked:
    """The feasible genomes of a problem that have not been taken yet.

    A genome is one canonical row, int64 `(choices,)`.
    """

    def __init__(self, problem: Problem, rng: np.random.Generator, metric: str = "params") -> None:
        self.problem = problem
        self.rng = rng
        self.metric = metric
        self._taken: set[bytes] = set()

    def take(self, genomes: np.ndarray) -> np.ndarray:
        """Take the feasible, new ones among n genomes; return a mask of them, bool `(n,)`."""
        taken = self.problem.feasible(genomes)
        for i in np.flatnonzero(taken):
            taken[i] = self._is_new(genomes[i])
        return taken

    def _is_new(self, genome: np.ndarray) -> bool:
        """Take a feasible genome; return whether it had not been taken."""
        key, before = genome.tobytes(), len(self._taken)
        self._taken.add(key)
        return len(self._taken) > before

    def free(self, genomes: np.ndarray) -> np.ndarray:
        """Return which of n genomes have not been taken, feasible or not: bool `(n,)`."""
        return np.array([genome.tobytes() not in self._taken for genome in genomes], dtype=bool)

    def draw(self, n: int) -> list[np.ndarray]:
        """Take n genomes, uniform over cost while possible; fewer when all are taken."""
        drawn: list[np.ndarray] = []
        while len(drawn) < n and (genome := self._draw()) is not None:
            drawn.append(genome)
        return drawn

    def _draw(self) -> np.ndarray | None:
        for _ in range(TRIES):
            genome = self._cost_uniform()
            if genome is not None and self._is_new(genome):
                return genome
        pool = _pool(self.problem.space, self.rng)
        for genome in pool[self.problem.feasible(pool)]:
            if self._is_new(genome):
                return genome
        return None

    def _cost_uniform(self) -> np.ndarray | None:
        """Return a feasible genome near a cost drawn uniformly; None if the path has none.

        The cost is drawn from the feasible part of a random path through the space, so no draw is
        wasted on infeasible genomes, however tight the constraints.
        """
        path = self.problem.space.random_path(self.rng)
        path = path[self.problem.feasible(path)]
        if len(path) == 0:
            return None
        costs = self.problem.space.costs(path, self.problem.shape)[self.metric]
        target = self.rng.uniform(costs.min(), costs.max())
        return path[np.abs(costs - target).argmin()]


def _pool(space: SearchSpace, rng: np.random.Generator) -> np.ndarray:
    """Return all genomes of a small space, or a sample of a large one, in random order."""
    sizes = [len(choice.options) for choice in space.choices]
    if math.prod(sizes) > POOL:
        return space.random_genomes(rng, POOL)
    every = np.indices(sizes).reshape(len(sizes), -1).T
    return rng.permutation(np.unique(space.canonical(every), axis=0))
