"""A run that is killed at any instant and started again ends as the uninterrupted one."""

import json
import os
import re
import shlex
import signal
import time
from pathlib import Path

import pytest
from click.testing import CliRunner

from nasvid.cli.main import main
from tests.processes import Started, nasvid

pytestmark = pytest.mark.slow

MEASURED = ("seconds", "waited", "memory", "time")
"""What is never the same twice of a step's event."""


def called(*arguments: object) -> None:
    result = CliRunner().invoke(main, [*map(str, arguments)], catch_exceptions=False)
    assert result.exit_code == 0, result.output


def lines(path: Path) -> int:
    return path.read_bytes().count(b"\n") if path.exists() else 0


def newest_step(out: Path) -> int:
    """The step that was logged last, -1 if none was."""
    path = out / "events.jsonl"
    steps = re.findall(r'"event": "step", "step": (\d+)', path.read_text() if path.exists() else "")
    return int(steps[-1]) if steps else -1


def run_until(recipe: Path, out: Path, log: Path, reached) -> bool:
    """Start the run and kill it with SIGKILL as soon as `reached()`; False if it ended before."""
    process = Started(log, nasvid, "run", recipe, "--out", out)
    deadline = time.monotonic() + 240
    while process.poll() is None and not reached():
        assert time.monotonic() < deadline, process.said
        time.sleep(0.002)
    ended = process.poll() is not None
    process.kill()
    assert not ended or process.poll() == 0, process.said
    return not ended


def result(out: Path) -> dict:
    """All that a run has made, without times."""
    found = {}
    for path in sorted(out.glob("checkpoints/*/*")) + sorted(out.glob("subnets/*/*/*")):
        found[str(path.relative_to(out))] = path.read_bytes()
    record = [json.loads(line) for line in (out / "search/record.jsonl").read_text().splitlines()]
    found["record"] = [{k: v for k, v in entry.items() if k != "seconds"} for entry in record]
    found["front"] = json.loads((out / "search/front.json").read_text())
    events = [json.loads(line) for line in (out / "events.jsonl").read_text().splitlines()]
    steps = {e["step"]: e for e in events if e["event"] == "step"}
    found["steps"] = [
        {k: v for k, v in steps[step].items() if k not in MEASURED} for step in sorted(steps)
    ]
    return found


@pytest.fixture(scope="module")
def recipe(tiny, tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("recipe") / "resumed.yaml"
    recipe = tiny(
        name="resumed",
        data={"frames": 4, "context_len": 8, "workers": 1},
        sampler={"name": "warm_up", "inner": {"name": "cost_uniform"}},
        training={"steps": 30, "learning_rate": 1e-3, "checkpoint_every": 7},
        search={
            "strategy": {"name": "evolutionary", "population": 6},
            "budget": 20,
            "batch": 4,
            "clips": 8,
        },
        front={"subnets": 3, "evaluators": []},
    )
    path.write_text(recipe)
    return path


@pytest.fixture(scope="module")
def uninterrupted(recipe, tmp_path_factory) -> dict:
    out = tmp_path_factory.mktemp("whole") / "run"
    called("run", recipe, "--out", out)
    return result(out)


def test_a_run_killed_at_random_points_ends_as_the_uninterrupted_one(
    recipe, uninterrupted, tmp_path, rng
):
    out = tmp_path / "run"
    record = out / "search/record.jsonl"

    def killed(reached, goal: int) -> bool:
        wait = rng.random() * 0.05

        def at_goal() -> bool:
            if reached() < goal:
                return False
            time.sleep(wait)
            return True

        return run_until(recipe, out, tmp_path / "log", at_goal)

    stopped = [killed(lambda: newest_step(out), goal) for goal in sorted(rng.sample(range(26), 2))]
    stopped += [killed(lambda: lines(record), goal) for goal in [rng.randrange(1, 16)]]
    assert sum(stopped) >= 2
    called("run", recipe, "--out", out)
    ours = result(out)
    for name, content in uninterrupted.items():
        assert ours[name] == content, name
    assert ours.keys() == uninterrupted.keys()


def test_sigterm_saves_and_says_how_to_resume(recipe, uninterrupted, tmp_path):
    out = tmp_path / "a run"  # the command that it prints must quote this
    process = Started(tmp_path / "log", nasvid, "run", recipe, "--out", out)
    process.wait_for(lambda: lines(out / "events.jsonl") >= 5)
    os.killpg(process.pid, signal.SIGTERM)  # as a scheduler does: the loader's worker gets it too
    assert process.wait() == 128 + signal.SIGTERM, process.said
    assert "Traceback" not in process.said
    saved = max((out / "checkpoints").iterdir())
    logged = (out / "events.jsonl").read_text().count('"event": "step"')
    assert int(saved.name.removeprefix("step-")) == logged - skips(out)
    how = shlex.split(process.said.strip().rsplit("Resume with: nasvid ", 1)[1])
    called(*how)
    ours = result(out)
    assert ours["record"] == uninterrupted["record"]
    assert ours["steps"] == uninterrupted["steps"]


def skips(out: Path) -> int:
    return (out / "events.jsonl").read_text().count('"event": "skip"')
