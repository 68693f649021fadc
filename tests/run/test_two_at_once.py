"""Two processes in one run folder, and a folder that goes while a run is in it."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from nasvid.host.lock import locked

pytestmark = pytest.mark.slow


def start(*arguments: object) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-m", "nasvid", *map(str, arguments)],
        env=os.environ | {"OMP_NUM_THREADS": "1"},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def wait_for_step(out: Path, process: subprocess.Popen[str]) -> None:
    until = time.monotonic() + 120
    log = out / "events.jsonl"
    while not (log.exists() and '"event": "step"' in log.read_text()):
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < until
        time.sleep(0.02)


@pytest.fixture
def training(tiny, tmp_path):
    """A run that trains for long, in `tmp_path/run`."""
    data = {"train": "embedded:digits", "val": "embedded:digits", "frames": 4, "workers": 1}
    recipe = tiny(data=data, training={"steps": 100_000, "checkpoint_every": 5})
    (tmp_path / "long.yaml").write_text(recipe)
    process = start("run", tmp_path / "long.yaml", "--out", tmp_path / "run")
    wait_for_step(tmp_path / "run", process)
    yield process
    process.kill()
    process.communicate()


def test_verbs_that_write_are_refused_while_another_process_works(run, nasvid, everything):
    with locked(run):
        before = everything(run)
        for verb in (
            ("run", "recipe.yaml", "--out", "run"),
            ("search", "run", "--set", "search.budget=7"),
            ("extract", "run"),
        ):
            done = nasvid(*verb)
            assert done.exit_code == 2, verb
            assert f"run is in use by process {os.getpid()} on " in done.stderr
        assert everything(run) == before
        assert nasvid("report", "run").exit_code == 0
        id_ = min(each.name for each in (run / "subnets").iterdir() if each.is_dir())
        assert nasvid("export", "run", id_, "--out", "x").exit_code == 0
    assert nasvid("extract", "run").exit_code == 0


def test_a_killed_runs_folder_is_free_at_once_and_a_moved_one_stops_the_run(
    training, nasvid, tmp_path
):
    out = tmp_path / "run"
    second = nasvid("run", tmp_path / "long.yaml", "--out", out)
    assert second.exit_code == 2
    assert f"run is in use by process {training.pid} on " in second.stderr
    while not any((out / "checkpoints").glob("step-*")):
        assert training.poll() is None, training.communicate()
        time.sleep(0.02)
    training.send_signal(signal.SIGKILL)
    training.wait()
    steps = (out / "events.jsonl").read_text().count('"event": "step"')
    third = start("run", tmp_path / "long.yaml", "--out", out)
    while (out / "events.jsonl").read_text().count('"event": "step"') <= steps:
        assert third.poll() is None, third.communicate()
        time.sleep(0.02)
    out.rename(tmp_path / "moved")
    _, said = third.communicate(timeout=60)
    assert third.returncode == 2
    assert said.count("\n") == 1
    assert f"error: {out} was deleted or moved while it was in use" in said
    assert not out.exists()
    checkpoints = sorted((tmp_path / "moved/checkpoints").glob("step-*"))
    assert json.loads((checkpoints[-1] / "state.json").read_text())["progress"]["step"] > 0


def test_a_deleted_folder_stays_deleted(training, tmp_path):
    shutil.rmtree(tmp_path / "run", ignore_errors=True)
    _, said = training.communicate(timeout=60)
    assert training.returncode == 2, said
    assert "was deleted or moved while it was in use" in said
    assert not (tmp_path / "run/recipe.yaml").exists()
    assert not (tmp_path / "run/checkpoints").exists()


def test_what_the_recipe_no_longer_asks_for_is_gone_from_the_page(run, nasvid, change):
    members = json.loads((run / "search/front.json").read_text())["members"]
    page = (run / "report.html").read_text()
    assert "data:image/webp" in page
    assert "fine-tuned" in page.lower()
    nasvid("extract", "run", "largest")
    change(front={"prompts": [], "subnets": 1}, finetune=None)
    done = nasvid("run", "recipe.yaml", "--out", "run")
    assert done.exit_code == 0, done.output
    page = (run / "report.html").read_text()
    assert "data:image/webp" not in page
    assert "fine-tuned" not in page.lower()
    assert not (run / "samples").exists()
    chosen = json.loads((run / "search/front.json").read_text())["members"]
    former = {m["id"] for m in members} - {m["id"] for m in chosen}
    assert former
    for id_ in former:
        exported = json.loads((run / "subnets/chosen.json").read_text())
        assert id_ not in exported
        assert not (run / "subnets" / id_).exists() or id_ == "largest"
