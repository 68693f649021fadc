import ctypes
from pathlib import Path

import pytest

from benchmarks import measure_memory
from benchmarks.memory import CASES, predicted
from tests.processes import Started

# Of glibc's malloc.h.
TRIM_THRESHOLD, MMAP_THRESHOLD = -1, -3


def measure(*words: str) -> None:
    """Measure a few steps; what is freed is given back at once."""
    for option in (TRIM_THRESHOLD, MMAP_THRESHOLD):
        assert ctypes.CDLL(None).mallopt(option, 1 << 16)
    measure_memory.main(*words)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["small weights", "small activations"])
def test_real_steps_take_the_memory_that_is_predicted(name: str, tmp_path: Path) -> None:
    """In a process of its own; of large weights, and of large activations."""
    case, path = CASES[name], tmp_path / "recipe.yaml"
    path.write_text(case.recipe)
    changes = (*case.overrides, "training.steps=2")
    process = Started(tmp_path / "said", measure, str(path), *changes)
    plan = predicted(path, changes, case.ranks)
    assert process.wait() == 0, process.said
    measured = int(process.said.partition("PEAK ")[2].split()[0])
    assert plan / measured == pytest.approx(1, abs=0.15)
