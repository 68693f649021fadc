"""A search that is killed, and one that is not."""

import os
import signal
import time
from pathlib import Path

from nasvid.recipe.sections import SearchSection
from nasvid.search.driver import run_search
from nasvid.strategy import StrategySection
from nasvid.testing.toy import ToySpace, toy_context


def search(record: Path) -> None:
    strategy = StrategySection.model_validate({"name": "evolutionary", "population": 6})
    section = SearchSection(
        strategy=strategy, budget=24, batch=4, constraints=("params <= 450", "loss@8 <= 0.055")
    )
    run_search(section, toy_context(ToySpace.of()), seed=3, record_path=record)


def search_until_killed(record: Path, size: int) -> None:
    child = os.fork()
    if child == 0:
        search(record)
        os._exit(1)
    while not record.exists() or record.stat().st_size <= size:
        time.sleep(0.0005)
    os.kill(child, signal.SIGKILL)
    _, status = os.waitpid(child, 0)
    assert os.WIFSIGNALED(status), f"the child ended by itself: {status}"


def search_until_done(record: Path, *sizes: int) -> None:
    """Search in children that are killed at these sizes of the record, then in this process."""
    for size in sizes:
        search_until_killed(record, size)
    search(record)
