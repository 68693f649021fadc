"""Two processes in one run folder, and a folder that goes while a run is in it."""

import json
import os
import shutil
from pathlib import Path

import pytest

from nasvid.host.lock import locked
from tests.processes import Started
from tests.processes import nasvid as as_a_process

pytestmark = pytest.mark.slow


def start(folder: Path) -> Started:
    words = ("run", folder / "long.yaml", "--out", folder / "run")
    return Started(folder / "said", as_a_process, *words)


def steps(out: Path) -> int:
    log = out / "events.jsonl"
    return log.read_text().count('"event": "step"') if log.exists() else 0


@pytest.fixture
def training(tiny, tmp_path):
    """A run that trains for long, in `tmp_path/run`."""
    data = {"train": "embedded:digits", "val": "embedded:digits", "frames": 4, "workers": 1}
    recipe = tiny(data=data, training={"steps": 100_000, "checkpoint_every": 5})
    (tmp_path / "long.yaml").write_text(recipe)
    process = start(tmp_path)
    process.wait_for(lambda: steps(tmp_path / "run"))
    yield process
    process.kill()


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
    training.wait_for(lambda: any((out / "checkpoints").glob("step-*")))
    training.kill()
    before = steps(out)
    third = start(tmp_path)
    third.wait_for(lambda: steps(out) > before)
    out.rename(tmp_path / "moved")
    assert third.wait() == 2
    assert third.said.count("error") == 1
    said = third.said.splitlines()[-1]
    assert said.startswith(f"error: {out} was deleted or moved while it was in use")
    assert not out.exists()
    checkpoints = sorted((tmp_path / "moved/checkpoints").glob("step-*"))
    assert json.loads((checkpoints[-1] / "state.json").read_text())["progress"]["step"] > 0


def test_a_deleted_folder_stays_deleted(training, tmp_path):
    shutil.rmtree(tmp_path / "run", ignore_errors=True)
    assert training.wait() == 2, training.said
    assert "was deleted or moved while it was in use" in training.said
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
