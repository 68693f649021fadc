"""Fine-tuning a compiled model gives the same result as without compiling."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.slow

PLUGIN = """
from nasvid.plugins import register
from nasvid.testing.toy import ToySpace

register("spaces", "toy")(ToySpace)
"""


def losses(folder: Path, *sets: str) -> list[float]:
    arguments = [x for each in sets for x in ("--set", each)]
    command = [sys.executable, "-m", "nasvid", "run", "toy.yaml", "--out", "-".join(["run", *sets])]
    env = os.environ | {"OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [*command, *arguments], cwd=folder, env=env, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    log = (folder / command[-1] / "events.jsonl").read_text().splitlines()
    return [e["loss"] for e in map(json.loads, log) if e["event"] == "finetune_step"]


def test_a_compiled_network_learns_the_same(tiny, tmp_path):
    (tmp_path / "toy.py").write_text(PLUGIN)
    recipe = tiny(
        plugins=["toy.py"],
        data={"frames": 4, "context_len": 4, "workers": 0},
        resolutions={8: {"batch": 4}},
        space={"name": "toy"},
        training={"steps": 4, "learning_rate": 1e-2, "precision": "fp32"},
        search={"strategy": {"name": "random"}, "budget": 4, "clips": 4},
        front={"subnets": 1, "evaluators": [], "prompts": []},
        finetune={"subnets": 1, "steps": 6, "learning_rate": 1e-2},
    )
    (tmp_path / "toy.yaml").write_text(recipe)
    plain = losses(tmp_path)
    assert len(plain) == 6
    assert losses(tmp_path, "finetune.compile=true") == pytest.approx(plain, rel=1e-4)
