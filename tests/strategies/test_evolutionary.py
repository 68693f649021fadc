import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest

from nasvid.evaluation import Evaluation
from nasvid.search.pareto import hypervolume
from nasvid.strategy import Problem, Strategy
from nasvid.testing.toy import LARGE, SHAPES, ToySpace
from nasvid_strategies.evolutionary import Evolutionary
from nasvid_strategies.random import RandomSearch
from tests.processes import Started

pytestmark = pytest.mark.slow

SPACE = ToySpace.of(widths=(2, 4, 6, 8, 12, 16), blocks=6)
SHAPE = SHAPES[LARGE]
TOP = SPACE.cost(SPACE.largest, "macs", SHAPE)


def loss(genomes: np.ndarray) -> np.ndarray:
    """Blocks of unequal worth, widths of diminishing returns, and each needs the other."""
    widths = np.array(SPACE.config.widths)
    width, on, hidden = widths[genomes[:, 0]], genomes[:, 1::2], widths[genomes[:, 2::2]]
    worth = np.array([8, 1, 0.5, 4, 0.2, 2])
    gain = (on * worth * np.minimum(hidden, 6) / 6).sum(axis=1) / worth.sum()
    return 1 - 0.15 * width / 16 - 0.6 * gain * (0.4 + 0.6 * np.minimum(width, 8) / 8)


def problem(seed: int) -> Problem:
    return Problem(
        space=SPACE,
        objectives=("loss", "macs"),
        seed=seed,
        shape=SHAPE,
        violation=lambda genomes: np.zeros(len(genomes)),
    )


def scored(genomes: np.ndarray) -> np.ndarray:
    return np.stack([loss(genomes), SPACE.costs(genomes, SHAPE).macs / TOP], axis=1)


def one_round(strategy: Strategy, n: int) -> np.ndarray:
    """Ask for n, tell their scores, return their genomes."""
    asked = strategy.ask(n)
    genomes = np.stack([SPACE.encode(arch) for arch in asked])
    metrics = [dict(zip(("loss", "macs"), row, strict=True)) for row in scored(genomes)]
    strategy.tell([Evaluation(a, m, 0.0) for a, m in zip(asked, metrics, strict=True)])
    return genomes


def dominated_share(strategy: Strategy, budget: int) -> float:
    scores: list[np.ndarray] = []
    while len(scores) < budget:
        scores += list(scored(one_round(strategy, min(16, budget - len(scores)))))
    return hypervolume(np.stack(scores), np.ones(2))


def shares(make: type[Strategy], seeds: Sequence[int]) -> np.ndarray:
    return np.array(
        [dominated_share(make(make.Config(), problem(seed)), budget=160) for seed in seeds]
    )


def test_beats_random_search_at_equal_budget() -> None:
    ours, chance = shares(Evolutionary, range(3)), shares(RandomSearch, range(8))
    assert ours.mean() > chance.mean() + 2 * chance.std()
    assert np.median(ours) > chance.max()


def test_the_first_generation_spreads_over_the_cost() -> None:
    strategy = Evolutionary(Evolutionary.Config(population=24), problem(0))
    asked = strategy.ask(24)
    assert {SPACE.smallest, SPACE.largest} <= set(asked)
    params = np.array([SPACE.cost(arch, "params", SHAPE) for arch in asked])
    assert np.histogram(params, bins=4, range=(params.min(), params.max()))[0].min() >= 2


def distance_to_parents(crossover: float) -> float:
    """Return in how many options children differ from their nearest elder, on average."""
    config = Evolutionary.Config(population=32, crossover=crossover, mutations=1, predictor="none")
    strategy = Evolutionary(config, problem(0))
    first, second = one_round(strategy, 32), one_round(strategy, 32)
    return float((first[:, None] != second[None]).sum(axis=2).min(axis=0).mean())


def test_children_of_two_are_further_from_their_elders_than_children_of_one() -> None:
    assert 1 <= distance_to_parents(crossover=0) < 3
    assert distance_to_parents(crossover=1) > distance_to_parents(crossover=0) + 0.5


def rounds(seed: int) -> list[list[str]]:
    """Return the genomes of a conversation, in hexadecimal."""
    strategy = Evolutionary(Evolutionary.Config(), problem(seed))
    return [[genome.tobytes().hex() for genome in one_round(strategy, 10)] for _ in range(4)]


def print_rounds(seed: int) -> None:
    print(json.dumps(rounds(seed)))


def test_two_processes_agree_and_two_seeds_do_not(tmp_path: Path) -> None:
    """The other process hashes strings otherwise."""
    other = Started(tmp_path / "said", print_rounds, 4)
    assert other.wait() == 0, other.said
    assert json.loads(other.said) == rounds(4)
    assert rounds(5) != rounds(4)
