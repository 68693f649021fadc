from typing import ClassVar

import pytest

from nasvid.testing import StrategyConformance
from nasvid_strategies.evolutionary import Evolutionary
from nasvid_strategies.random import RandomSearch


class TestRandom(StrategyConformance):
    strategy = RandomSearch


class TestRandomOverMacs(StrategyConformance):
    strategy = RandomSearch
    options: ClassVar = {"metric": "macs"}


class TestEvolutionary(StrategyConformance):
    strategy = Evolutionary
    options: ClassVar = {"predictor": "none"}


class TestEvolutionaryOfSmallGenerations(StrategyConformance):
    strategy = Evolutionary
    options: ClassVar = {
        "predictor": "none",
        "population": 4,
        "mutations": 1.0,
        "crossover": 0.5,
    }


class TestEvolutionaryWithRidgeRegression(StrategyConformance):
    strategy = Evolutionary
    options: ClassVar = {"predictor": "ridge", "unpredicted": 0.0, "population": 24}


@pytest.mark.slow
class TestEvolutionaryWithAGaussianProcess(StrategyConformance):
    strategy = Evolutionary
    options: ClassVar = {"population": 24}
