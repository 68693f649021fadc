"""The documentation's sampler, taken out of its page."""

import json
import re
from pathlib import Path

import pytest
import yaml

from nasvid import plugins
from nasvid.distributed.ranks import ALONE
from tests.training.train_on_ranks import train

PAGE = Path(__file__).parents[2] / "docs" / "samplers.md"
STEPS = 12


@pytest.fixture(scope="module")
def written(tmp_path_factory) -> Path:
    """The page's file, and its lines of a recipe."""
    folder = tmp_path_factory.mktemp("curriculum")
    code, recipe = (
        re.search(f"```{kind}\n(.*?)```", PAGE.read_text(), re.DOTALL)[1]
        for kind in ("python", "yaml")
    )
    (folder / "curriculum.py").write_text(code)
    (folder / "part.yaml").write_text(recipe)
    plugins.load_file(folder / "curriculum.py")
    return folder


@pytest.mark.slow
def test_a_recipe_that_names_it_begins_with_low_resolutions(written, tiny):
    part = yaml.safe_load((written / "part.yaml").read_text())
    path = written / "recipe.yaml"
    path.write_text(tiny(training={"steps": STEPS}, **part))
    train(path, written / "run", ["data.workers=0", "training.distillation=0"], ALONE)
    lines = map(json.loads, (written / "run/events.jsonl").read_text().splitlines())
    sides = [event["resolution"] for event in lines if event["event"] == "step"]
    assert len(sides) == STEPS
    joined = 1 + next(i for i in range(STEPS) if i / STEPS >= 0.6)
    assert set(sides[: joined - 1]) == {16}
    assert set(sides[joined - 1 :]) == {16, 32}
