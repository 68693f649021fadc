import json
from pathlib import Path

import numpy as np
import pytest

from tests.processes import Started
from tests.search.killed_search import search, search_until_done

pytestmark = pytest.mark.slow


def lines(record: Path) -> list[dict]:
    return [json.loads(line) | {"seconds": 0} for line in record.read_text().splitlines()]


def test_a_search_killed_twice_ends_as_one_that_was_not(tmp_path: Path) -> None:
    """In a process that hashes strings otherwise, as each does."""
    whole, killed = tmp_path / "whole.jsonl", tmp_path / "killed.jsonl"
    search(whole)
    assert len(lines(whole)) == 24
    assert {line["violation"] > 0 for line in lines(whole)} == {True, False}

    longest = 0.9 * whole.stat().st_size
    sizes = sorted(int(size) for size in np.random.default_rng(1).uniform(0, longest, 2))
    process = Started(tmp_path / "said", search_until_done, killed, *sizes)
    assert process.wait() == 0, process.said
    assert lines(killed) == lines(whole)
