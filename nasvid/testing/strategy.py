"""The rules of a strategy, as a test class to derive from."""

from __future__ import annotations

from functools import partial
from itertools import chain
from typing import ClassVar

import numpy as np

from nasvid.architecture import Architecture
from nasvid.costs import METRICS
from nasvid.evaluation import Evaluation
from nasvid.space import SearchSpace
from nasvid.strategy import Problem, Strategy
from nasvid.testing.base import Conformance
from nasvid.testing.randomness import untouched_randomness
from nasvid.testing.toy import SHAPES, ToySpace


class StrategyConformance(Conformance):
    """Derive from it, set `strategy`, and pytest checks every rule of a strategy.

    class TestMine(StrategyConformance):
        strategy = Mine
    """

    strategy: ClassVar[type[Strategy]]
    """The class under test."""

    def space(self) -> SearchSpace:
        """Return the space to search; a few hundred architectures by default."""
        return ToySpace.of()

    def make(
        self,
        space: SearchSpace,
        *,
        seed: int = 0,
        objectives: tuple[str, ...] = ("loss", "macs"),
        most: float = 1.0,
    ) -> Strategy:
        """Return a new strategy; `most` is the largest allowed share of the full size."""
        shape = SHAPES[max(SHAPES)]
        bound = most * space.cost(space.largest, "params", shape)

        def cost(name: str, genomes: np.ndarray) -> np.ndarray:
            return space.costs(genomes, shape)[name].astype(np.float64)

        known = {"params", *objectives} & set(METRICS)
        problem = Problem(
            space=space,
            objectives=objectives,
            seed=seed,
            shape=shape,
            violation=lambda genomes: np.maximum(cost("params", genomes) - bound, 0),
            costs={name: partial(cost, name) for name in sorted(known)},
            limits={"params": (-np.inf, bound)},
        )
        return self.made(self.strategy, problem)

    def converse(self, strategy: Strategy, *counts: int) -> list[list[Architecture]]:
        """Ask for each of `counts` architectures, tell their results, and return them."""
        asked = []
        for n in counts:
            asked.append(strategy.ask(n))
            strategy.tell([_evaluate(strategy.problem, arch) for arch in asked[-1]])
        return asked

    def test_asks_for_something_and_for_no_more_than_n(self) -> None:
        """A round has between one and n architectures."""
        counts = (1, 7, 16, 3)
        rounds = self.converse(self.make(self.space()), *counts)
        assert all(0 < len(asked) <= n for n, asked in zip(counts, rounds, strict=True))

    def test_asks_for_canonical_architectures_of_the_space(self) -> None:
        """Each architecture equals its canonical form in the space."""
        space = self.space()
        for arch in chain.from_iterable(self.converse(self.make(space), *[10] * 6)):
            assert space.architecture(arch) == arch

    def test_never_asks_twice(self) -> None:
        """Every architecture is asked for at most once."""
        asked = list(chain.from_iterable(self.converse(self.make(self.space()), *[10] * 8)))
        assert len(set(asked)) == len(asked)

    def test_satisfies_constraints_on_cost(self) -> None:
        """It proposes only feasible architectures, however few there are."""
        space = self.space()
        for most in (0.6, 0.3):
            strategy = self.make(space, most=most)
            for arch in chain.from_iterable(self.converse(strategy, *[10] * 4)):
                assert strategy.problem.feasible(space.encode(arch)[None])[0]

    def test_ends_where_nothing_is_feasible(self) -> None:
        """If no architecture satisfies the constraints, it neither hangs nor fails."""
        assert self.converse(self.make(self.space(), most=0.0), 5, 5) == [[], []]

    def test_is_a_function_of_the_seed_and_what_it_is_told(self) -> None:
        """A search resumes by replay, so global random state must not be used."""
        rounds = []
        for state in (1, 2):
            with untouched_randomness(state):
                rounds.append(self.converse(self.make(self.space(), seed=5), *[10] * 6))
        assert rounds[0] == rounds[1]

    def test_takes_any_number_of_objectives(self) -> None:
        """One and three objectives work like two."""
        for objectives in (("loss",), ("loss", "macs", "latency_ms")):
            asked = self.converse(self.make(self.space(), objectives=objectives), *[10] * 6)
            assert all(asked)

    def test_exhausts_a_tiny_space(self) -> None:
        """When no architecture is left, it returns an empty list, every time."""
        space = ToySpace.of(widths=(2, 4), blocks=1)
        rounds = self.converse(self.make(space), *[4] * (space.size + 2))
        asked = list(chain.from_iterable(rounds))
        assert len(set(asked)) == len(asked) <= space.size
        assert rounds[-1] == rounds[-2] == []


def _evaluate(problem: Problem, arch: Architecture) -> Evaluation:
    """Return made-up results: larger is mostly better; some violate a constraint or are NaN."""
    chance = np.random.default_rng(int(arch.id, 16))
    if chance.random() < 0.1:
        return Evaluation(arch, dict.fromkeys(problem.objectives, np.nan), np.inf)
    macs = problem.space.cost(arch, "macs", problem.shape)
    scores = [1 / macs + 0.1 * chance.random(), macs, chance.random()]
    violation = max(0.0, chance.random() - 0.8)
    return Evaluation(arch, dict(zip(problem.objectives, scores, strict=False)), violation)
