"""A search strategy in one file: look next to the best that is known, and at times elsewhere."""

from collections.abc import Sequence

import numpy as np
from pydantic import Field

from nasvid import Architecture, Config, Evaluation, Problem, Strategy, register
from nasvid.search.pareto import nondominated


class LocalSearchConfig(Config):
    """Options of local_search."""

    restart: float = Field(default=0.1, gt=0, le=1)
    """Chance that a proposal is a random architecture instead."""
    patience: int = Field(default=1000, ge=1)
    """Proposals in a row with nothing new in them after which there is nothing more to ask."""


@register("strategies", "local_search")
class LocalSearch(Strategy[LocalSearchConfig]):
    """Changes one option at a time of the architectures that no other dominates."""

    def __init__(self, config: LocalSearchConfig, problem: Problem) -> None:
        super().__init__(config, problem)
        self.rng = np.random.default_rng(problem.seed)
        self.asked: set[Architecture] = set()
        self.best: list[Evaluation] = []

    def ask(self, n: int) -> list[Architecture]:
        space, new = self.problem.space, []
        for _ in range(self.config.patience):
            arch = space.decode(self._propose())
            if arch not in self.asked and self.problem.feasible(space.encode(arch)[None])[0]:
                self.asked.add(arch)
                new.append(arch)
            if len(new) == n:
                break
        return new

    def tell(self, results: Sequence[Evaluation]) -> None:
        known = self.best + [result for result in results if result.feasible]
        if known:
            values = self.problem.objective_values(known)
            self.best = [known[i] for i in nondominated(values)]

    def _propose(self) -> np.ndarray:
        space, rng = self.problem.space, self.rng
        if not self.best or rng.random() < self.config.restart:
            return space.random_genomes(rng, 1)[0]
        genome = space.encode(self.best[rng.integers(len(self.best))].arch)
        i = rng.integers(len(genome))
        genome[i] = rng.integers(len(space.choices[i].options))
        return genome
