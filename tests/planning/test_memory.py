import json
import subprocess
import sys
from pathlib import Path

import pytest

BENCHMARK = Path(__file__).parents[2] / "benchmarks" / "memory.py"


@pytest.mark.slow
def test_real_steps_take_the_memory_that_is_predicted() -> None:
    """One recipe of large weights, one of large activations; each in a process of its own."""
    command = [sys.executable, str(BENCHMARK), "--json", "small weights", "small activations"]
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr
    for name, row in json.loads(result.stdout).items():
        assert row["ratio"] == pytest.approx(1, abs=0.15), (name, row)
