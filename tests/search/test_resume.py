import json
import os
import runpy
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

pytestmark = pytest.mark.slow

SCRIPT = Path(__file__).with_name("killed_search.py")


def lines(record: Path) -> list[dict]:
    return [json.loads(line) | {"seconds": 0} for line in record.read_text().splitlines()]


def test_a_search_killed_twice_ends_as_one_that_was_not(tmp_path: Path) -> None:
    whole, killed = tmp_path / "whole.jsonl", tmp_path / "killed.jsonl"
    runpy.run_path(str(SCRIPT))["search"](whole)
    assert len(lines(whole)) == 24
    assert {line["violation"] > 0 for line in lines(whole)} == {True, False}

    longest = 0.9 * whole.stat().st_size
    sizes = sorted(int(size) for size in np.random.default_rng(1).uniform(0, longest, 2))
    subprocess.run(
        [sys.executable, SCRIPT, killed, *map(str, sizes)],
        check=True,
        env={**os.environ, "PYTHONHASHSEED": "7"},
        timeout=120,
    )
    assert lines(killed) == lines(whole)
