"""How children are made of parents."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from nasvid.space import SearchSpace


@dataclass(frozen=True, slots=True)
class Breeding:
    """The probability of two parents instead of one, and the mean number of redrawn options."""

    crossover: float
    mutations: float

    def rate(self, space: SearchSpace) -> float:
        """Return the probability that one option is redrawn."""
        return min(1.0, self.mutations / len(space.choices))

    def children(
        self, space: SearchSpace, rng: np.random.Generator, parents: np.ndarray, n: int
    ) -> np.ndarray:
        """Return n children of random parents, `(n, choices)`; they may be duplicates."""
        first, second = parents[rng.integers(len(parents), size=(2, n))]
        crossed = np.where(
            rng.random((n, 1)) < self.crossover, space.cross(rng, first, second), first
        )
        return space.mutate(rng, crossed, self.rate(space))
