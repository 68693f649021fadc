"""Fine-tuning a compiled model gives the same result as without compiling."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner

from nasvid.cli.main import main
from nasvid.plugins import registry

pytestmark = pytest.mark.slow

PLUGIN = """
from nasvid.plugins import register
from nasvid.testing.toy import ToySpace

register("spaces", "toy")(ToySpace)
"""


def losses(run: Path) -> list[float]:
    log = (run / "events.jsonl").read_text().splitlines()
    return [e["loss"] for e in map(json.loads, log) if e["event"] == "finetune_step"]


def test_a_compiled_network_learns_the_same(tiny, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(registry, "_registered", dict(registry._registered))
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
    command = ["run", "toy.yaml", "--out"]
    compiled = ["compiled", "--set", "finetune.compile=true"]
    done = subprocess.run(
        [sys.executable, "-m", "nasvid", *command, *compiled],
        env=os.environ | {"OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    result = CliRunner().invoke(main, [*command, "plain"], catch_exceptions=False)
    assert result.exit_code == 0, result.output
    assert len(losses(tmp_path / "plain")) == 6
    assert losses(tmp_path / "compiled") == pytest.approx(losses(tmp_path / "plain"), rel=1e-4)
