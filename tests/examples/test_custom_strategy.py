import runpy
from pathlib import Path
from typing import ClassVar
from urllib.parse import urlsplit

import pytest

from nasvid import plugins
from nasvid.preflight import load_recipe
from nasvid.recipe.sections import SearchSection
from nasvid.search.driver import run_search
from nasvid.strategy import RunContext
from nasvid.testing import StrategyConformance
from nasvid.testing.toy import ToySpace, toy_context

EXAMPLE = Path(__file__).parents[2] / "examples" / "custom_strategy"
plugins.load_file(EXAMPLE / "local_search.py")


class TestLocalSearchByChance(StrategyConformance):
    strategy = plugins.load("strategies", "local_search")
    options: ClassVar = {"restart": 1.0}


def test_its_recipe_registers_and_configures_it() -> None:
    strategy = load_recipe(EXAMPLE / "recipe.yaml").recipe.search.strategy
    assert strategy.name == "local_search"
    assert strategy.options == {"restart": 0.2, "patience": 1000}


def test_the_document_shows_the_files_as_they_are() -> None:
    text = (EXAMPLE.parents[1] / "docs" / "strategies.md").read_text()
    for name in ("local_search.py", "best_so_far.py"):
        assert (EXAMPLE / name).read_text() in text


@pytest.mark.slow
def test_an_observer_keeps_the_best_and_changes_nothing(tmp_path: Path) -> None:
    observer = runpy.run_path(str(EXAMPLE / "best_so_far.py"))["BestSoFar"]
    context = toy_context(ToySpace.of())
    section = SearchSection.model_validate({"strategy": {"name": "local_search"}, "budget": 30})
    found = []
    for name, attribute in (("plain", None), ("observed", observer)):
        run = RunContext(name, tmp_path / name, print)
        strategy = section.strategy.cls
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(strategy, "Observer", attribute)
            result = run_search(
                section, context, seed=0, record_path=tmp_path / f"{name}.jsonl", run=run
            )
        found.append([(each.arch, each.metrics) for each in result.evaluations])
    assert found[0] == found[1]
    with observer.page(section.strategy.config, run) as address:
        lines = Path(urlsplit(address).path).read_text().splitlines()
    losses = [float(line.split()[1]) for line in lines]
    assert losses == sorted(losses, reverse=True)
    assert losses[-1] == min(metrics["loss"] for _, metrics in found[0])
