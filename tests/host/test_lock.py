"""One process at a time in a folder."""

import json
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest

from nasvid.errors import UserError
from nasvid.host import lock
from nasvid.host.lock import LOCK, OWNER, locked

HOLD = """
import os, sys, time
from pathlib import Path
from nasvid.host.lock import locked
with locked(Path(sys.argv[1])):
    if len(sys.argv) > 2 and not os.fork():
        time.sleep(float(sys.argv[2]))  # a worker that outlives its parent for a moment
        os._exit(0)
    print("held", flush=True)
    time.sleep(60)
"""


def hold(folder: Path, *more: str) -> subprocess.Popen:
    command = [sys.executable, "-c", HOLD, str(folder), *more]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    assert process.stdout.readline() == "held\n"
    return process


@pytest.mark.slow
def test_a_second_process_is_refused_and_told_who_is_there(tmp_path):
    holder = hold(tmp_path / "run")
    today = time.strftime("%Y-%m-%d")
    with pytest.raises(UserError) as refused, locked(tmp_path / "run"):
        pass
    assert f"process {holder.pid} on {socket.gethostname()} since {today}" in str(refused.value)
    holder.kill()
    holder.wait()
    with locked(tmp_path / "run"):
        pass
    assert [path.name for path in (tmp_path / "run").iterdir()] == [LOCK]


@pytest.mark.slow
def test_a_killed_owners_lock_is_taken_once_its_workers_have_gone(tmp_path):
    holder = hold(tmp_path, "1.5")
    holder.send_signal(signal.SIGKILL)
    holder.wait()
    with locked(tmp_path):
        owner = json.loads((tmp_path / OWNER).read_text())
    assert owner["pid"] == os.getpid()


def test_who_is_patient_is_told_and_may_give_up(tmp_path, monkeypatch):
    monkeypatch.setattr(lock, "POLL", 0.01)
    told = []

    def patient(owner: str) -> None:
        told.append(owner)
        if len(told) == 3:
            raise KeyboardInterrupt

    with locked(tmp_path), pytest.raises(KeyboardInterrupt), locked(tmp_path, patient):
        pass
    assert told[0].startswith(f"process {os.getpid()} on ")
    with locked(tmp_path, patient):
        assert len(told) == 3


def test_unfinished_files_are_removed_when_a_folder_is_locked(tmp_path):
    left = tmp_path / "latents/32/train/.000003.tar.999999999.unfinished"
    left.parent.mkdir(parents=True)
    left.write_bytes(b"half a shard")
    with locked(tmp_path):
        assert not left.exists()


@pytest.mark.parametrize("name", [LOCK, OWNER])
def test_a_folder_in_the_place_of_a_lock_is_an_error_and_holds_nothing(tmp_path, name):
    (tmp_path / name / "mine").mkdir(parents=True)
    with (
        pytest.raises(UserError, match=f"{name} is a folder where a file belongs"),
        locked(tmp_path),
    ):
        pass
    (tmp_path / name).rename(tmp_path / "away")
    with locked(tmp_path):
        pass


@pytest.mark.parametrize(
    "note",
    [
        '{"host": "a", "pid": "b", "since": 0}',
        '{"host": "a", "pid": 1, "since": "now"}',
        '{"host": "a", "pid": 1, "since": 1e300}',
        '{"host": "a", "pid": 1, "since": NaN}',
        "{}",
    ],
)
def test_a_damaged_note_of_the_owner_names_nobody(tmp_path, monkeypatch, note):
    monkeypatch.setattr(lock, "ORPHANS", 0.0)
    monkeypatch.setattr(lock, "POLL", 0.01)
    with locked(tmp_path):
        (tmp_path / OWNER).write_text(note)
        with pytest.raises(UserError, match="in use by another process"), locked(tmp_path):
            pass


def test_a_hostile_note_of_the_owner_stays_on_its_line(tmp_path):
    with locked(tmp_path):
        (tmp_path / OWNER).write_text('{"host": "a\\nerror: b", "pid": 1, "since": 0}')
        with pytest.raises(UserError) as refused, locked(tmp_path):
            pass
    assert "\n" not in str(refused.value)
