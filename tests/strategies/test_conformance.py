from typing import ClassVar

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


class TestEvolutionaryOfSmallGenerations(StrategyConformance):
    strategy = Evolutionary
    options: ClassVar = {"population": 4, "mutations": 1.0, "crossover": 0.5}
