"""Search in child processes that are killed, then in one that is not: RECORD SIZE SIZE ...

Each child gets SIGKILL as soon as the record is longer than its SIZE.
"""

import os
import signal
import sys
import time
from pathlib import Path

import torch

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


if __name__ == "__main__":
    torch.set_num_threads(1)
    record = Path(sys.argv[1])
    for size in sys.argv[2:]:
        search_until_killed(record, int(size))
    search(record)
