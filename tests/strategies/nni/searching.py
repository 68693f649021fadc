"""A search of a toy space as an experiment of NNI."""

import time
from pathlib import Path

from nasvid.metrics.loss import DenoisingLoss
from nasvid.recipe.sections import SearchSection
from nasvid.search.driver import SearchResult, run_search
from nasvid.strategy import RunContext, StrategySection
from nasvid.testing.toy import ToySpace, toy_context


def search(
    folder: Path, print_line=print, budget=7, constraints=(), hold=None, **options
) -> SearchResult:
    """Search with a strategy's options; hold: a file before which nothing is evaluated."""
    section = SearchSection(
        strategy=StrategySection.model_validate({"name": "nni", **options}),
        budget=budget,
        batch=4,
        constraints=constraints,
    )
    if hold:
        evaluate = DenoisingLoss.evaluate
        DenoisingLoss.evaluate = lambda self, archs: _wait_for(hold) or evaluate(self, archs)
    return run_search(
        section,
        toy_context(ToySpace.of()),
        seed=3,
        record_path=folder / "record.jsonl",
        run=RunContext("toy", folder / "nni", print_line),
    )


def _wait_for(path: str) -> None:
    while not Path(path).exists():
        time.sleep(0.01)
