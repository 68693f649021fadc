from pathlib import Path
from typing import ClassVar

from nasvid import plugins
from nasvid.preflight import load_recipe
from nasvid.testing import StrategyConformance

EXAMPLE = Path(__file__).parents[2] / "examples" / "custom_strategy"
plugins.load_file(EXAMPLE / "local_search.py")


class TestLocalSearch(StrategyConformance):
    strategy = plugins.load("strategies", "local_search")


class TestLocalSearchByChance(StrategyConformance):
    strategy = plugins.load("strategies", "local_search")
    options: ClassVar = {"restart": 1.0}


def test_its_recipe_registers_and_configures_it() -> None:
    strategy = load_recipe(EXAMPLE / "recipe.yaml").recipe.search.strategy
    assert strategy.name == "local_search"
    assert strategy.options == {"restart": 0.2, "patience": 1000}


def test_the_document_shows_the_file_as_it_is() -> None:
    text = (EXAMPLE.parents[1] / "docs" / "strategies.md").read_text()
    assert (EXAMPLE / "local_search.py").read_text() in text
