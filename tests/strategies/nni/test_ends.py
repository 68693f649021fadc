"""Experiments of NNI that end before their time: nothing is left behind, and they are resumed."""

import json
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import psutil
import pytest

from nasvid.errors import Damaged, UserError
from nasvid.host.files import NotWritten
from nasvid.search.record import read_record
from nasvid_strategies.nni import binding
from nasvid_strategies.nni.strategy import Nni
from tests.strategies.nni.experiments import (
    check_against_record,
    finish,
    lines,
    managers,
    plain,
    start,
    trials,
)
from tests.strategies.nni.searching import search

pytestmark = pytest.mark.slow


def test_a_killed_search_leaves_nothing_and_is_resumed_to_the_same_record(
    tmp_path: Path, free_port, monkeypatch
):
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    whole.mkdir(), killed.mkdir()
    options = {"tuner": "TPE", "port": free_port(), "budget": 5}
    process = start(killed, **options)
    process.wait_for(lambda: lines(killed / "record.jsonl") == 3)
    assert managers(killed)
    process.kill()
    until = time.monotonic() + 20
    while managers(killed):
        assert time.monotonic() < until, "the manager outlives the search"
        time.sleep(0.05)
    finish(start(killed, **options))
    monkeypatch.setattr(Nni, "Observer", None)
    search(whole, **options)
    assert plain(killed) == plain(whole)
    shown = trials(killed)
    records = read_record(killed / "record.jsonl")
    alive = [r for r in records if shown[r.about["trial"]]["events"][-1] == "SUCCEEDED"]
    assert len(alive) >= 4  # the trial of the last one before the kill may have died with it
    check_against_record(killed, alive)
    assert not managers(tmp_path)


def test_a_killed_trial_costs_only_its_line_in_the_ui(tmp_path, nothing_left, free_port):
    hold = tmp_path / "hold"
    process = start(tmp_path, tuner="Random", port=free_port(), budget=3, hold=str(hold))
    evaluated: list[psutil.Process] = []

    def one_is_being_evaluated() -> bool:
        trials = [p for p in managers(tmp_path) if p.info["cmdline"][-1] == "trial.sh"]
        with suppress(psutil.NoSuchProcess):
            evaluated[:] = [trial for trial in trials if trial.net_connections()]
        return bool(evaluated)

    process.wait_for(one_is_being_evaluated)
    evaluated[0].send_signal(signal.SIGKILL)
    hold.touch()
    finish(process)
    assert len(read_record(tmp_path / "record.jsonl")) == 3
    states = [trial["events"][-1] for trial in trials(tmp_path).values()]
    assert states.count("SUCCEEDED") == 2
    assert len(states) == 3


def test_a_manager_that_dies_is_an_error_to_resume_from(tmp_path, nothing_left, free_port):
    options = {"tuner": "Random", "port": free_port(), "budget": 3}
    process = start(tmp_path, **options)
    process.wait_for(lambda: lines(tmp_path / "record.jsonl") == 1)
    pid = json.loads((tmp_path / "nni/experiment.json").read_text())["pid"]
    psutil.Process(pid).kill()
    assert process.wait(60) != 0
    assert "NNI's manager has ended; see " in process.said
    search(tmp_path, **options)
    assert len(read_record(tmp_path / "record.jsonl")) == 3


@pytest.fixture
def taken() -> Iterator[int]:
    """A port that is taken, at which no manager starts."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield server.getsockname()[1]


def test_a_manager_that_was_left_is_ended_at_the_next_start(tmp_path: Path, taken: int):
    database = tmp_path / "nni/abc/db/nni.sqlite"
    database.parent.mkdir(parents=True)
    database.touch()
    path = tmp_path / "nni/experiment.json"
    idle = [sys.executable, "-c", "import time; time.sleep(300)", "--experiment-id"]
    left, other = (subprocess.Popen([*idle, word]) for word in ("abc", "another"))
    for process in (left, other):  # the other has a number that was given again
        path.write_text(json.dumps({"id": "abc", "pid": process.pid}))
        with pytest.raises(UserError, match="in use"):
            search(tmp_path, tuner="Random", port=taken)
    assert left.poll() is not None
    assert other.poll() is None
    other.kill()
    other.wait()


def test_a_process_that_nobody_asks_about_has_ended():
    """As the manager has whose search still runs."""
    ended = subprocess.Popen(["true"])
    process = psutil.Process(ended.pid)
    while process.status() != psutil.STATUS_ZOMBIE:
        time.sleep(0.01)
    assert binding._alive([process], 0) == []
    ended.wait()


@pytest.mark.parametrize("pid", ["1", -1, 0, True, 10**30, [1]])
def test_a_process_that_is_none_is_damage_not_a_process(tmp_path, pid):
    (tmp_path / "experiment.json").write_text(json.dumps({"id": "abc", "pid": pid}))
    with pytest.raises(Damaged, match=r"experiment\.json is damaged \(its pid"):
        binding._end_stale(tmp_path)


def test_what_to_do_about_a_damaged_note_of_an_experiment_works(tmp_path: Path, taken: int):
    path = tmp_path / "nni/experiment.json"
    path.parent.mkdir()
    path.write_text("")
    options = {"tuner": "Random", "port": taken}
    with pytest.raises(Damaged, match="delete it; the next search is a new experiment"):
        search(tmp_path, **options)
    path.unlink()
    with pytest.raises(UserError, match=f"Port {taken} is in use; choose another"):
        search(tmp_path, **options)


def test_two_at_once_do_not_disturb_each_other(tmp_path, nothing_left, free_port):
    folders = [tmp_path / "a", tmp_path / "b"]
    for folder in folders:
        folder.mkdir()
    both = [start(f, tuner="evolutionary", port=free_port(), budget=4) for f in folders]
    both[0].wait_for(lambda: all(lines(folder / "record.jsonl") >= 1 for folder in folders))
    listening = [
        connection.laddr.ip
        for folder in folders
        for process in managers(folder)
        if process.info["name"] == "node"
        for connection in process.net_connections("tcp")
        if connection.status == psutil.CONN_LISTEN
    ]
    assert len(listening) >= 2
    assert set(listening) == {"127.0.0.1"}
    for process in both:
        finish(process)
    assert plain(folders[0]) == plain(folders[1])
    for folder in folders:
        check_against_record(folder, read_record(folder / "record.jsonl"))


def test_a_full_disk_is_one_line_before_the_manager_starts(tmp_path, mounted, nothing_left):
    disk = mounted("size=64k")
    (disk / "other").write_bytes(bytes(64 * 1024))
    with pytest.raises(NotWritten, match=r"nni/trial\.sh cannot be written: No space left"):
        search(disk)
    assert [path for path in (disk / "nni").rglob("*") if path.is_file()] == []
