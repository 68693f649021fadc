from pathlib import Path

import pytest

from benchmarks.memory import CASES, measured, predicted


@pytest.mark.slow
@pytest.mark.parametrize("name", ["small weights", "small activations"])
def test_real_steps_take_the_memory_that_is_predicted(name: str, tmp_path: Path) -> None:
    """In a process of its own; of large weights, and of large activations."""
    case, path = CASES[name], tmp_path / "recipe.yaml"
    path.write_text(case.recipe)
    plan = predicted(path, case.overrides, case.ranks)
    assert plan / measured(path, case.overrides, case.ranks) == pytest.approx(1, abs=0.15)
