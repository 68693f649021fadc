"""What comes after the training is the same on two ranks as on one."""

import json
import shutil

import pytest

from nasvid.preflight import load_recipe
from nasvid.run import pipeline

pytestmark = pytest.mark.slow

SHARED = ("search", "evaluate", "samples")
"""Folders of the stages that all ranks carry out, and whose results no rank may change."""


def contents(run) -> dict:
    files = [path for name in SHARED for path in (run / name).rglob("*") if path.is_file()]
    found = {str(path.relative_to(run)): path.read_bytes() for path in files}
    record = found.pop("search/record.jsonl").decode().splitlines()
    return found | {"record": [json.loads(line) | {"seconds": 0} for line in record]}


def test_two_ranks_search_evaluate_and_sample_what_one_does(run, forked) -> None:
    before = contents(run)
    assert len([name for name in before if name.endswith(".mp4")]) == 3
    for name in SHARED:
        shutil.rmtree(run / name)
    recipe = (run.parent / "recipe.yaml").absolute()
    statuses, said = forked(2, lambda: pipeline.run(load_recipe(recipe), run))
    assert statuses == [0, 0], said
    assert contents(run) == before
    assert said.count("samples: 2 videos") == 2
