"""Architectures that a strategy has not proposed yet."""

from __future__ import annotations

import math
from collections.abc import Iterator

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
        in_vain = 0
        while len(drawn) < n and in_vain < TRIES:
            for genome in self._cost_uniform(min(n - len(drawn), TRIES)):
                if genome is not None and self._is_new(genome):
                    drawn.append(genome)
                    in_vain = 0
                else:
                    in_vain += 1
        while len(drawn) < n and (genome := self._left()) is not None:
            drawn.append(genome)
        return drawn

    def _left(self) -> np.ndarray | None:
        pool = _pool(self.problem.space, self.rng)
        return next(
            (each for each in pool[self.problem.feasible(pool)] if self._is_new(each)), None
        )

    def _cost_uniform(self, n: int) -> Iterator[np.ndarray | None]:
        """Yield n feasible genomes, each near a cost drawn uniformly; None for one without any.

        The cost is drawn from the feasible part of a random path through the space, so no draw is
        wasted on infeasible genomes, however tight the constraints.
        """
        drawn = [(self.problem.space.random_path(self.rng), self.rng.random()) for _ in range(n)]
        genomes = np.concatenate([path for path, _ in drawn])
        feasible = self.problem.feasible(genomes)
        costs = self.problem.space.costs(genomes, self.problem.shape)[self.metric]
        first = 0
        for path, share in drawn:
            places = slice(first, first := first + len(path))
            path, own = path[feasible[places]], costs[places][feasible[places]]
            if len(path) == 0:
                yield None
                continue
            target = own.min() + share * (own.max() - own.min())
            yield path[np.abs(own - target).argmin()]


def _pool(space: SearchSpace, rng: np.random.Generator) -> np.ndarray:
    """Return all genomes of a small space, or a sample of a large one, in random order."""
    sizes = [len(choice.options) for choice in space.choices]
    if math.prod(sizes) > POOL:
        return space.random_genomes(rng, POOL)
    every = np.indices(sizes).reshape(len(sizes), -1).T
    return rng.permutation(np.unique(space.canonical(every), axis=0))
