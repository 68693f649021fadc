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
    left = tmp_path / "latents/32/train/.000003.tar.999999999"
    left.parent.mkdir(parents=True)
    left.write_bytes(b"half a shard")
    with locked(tmp_path):
        assert not left.exists()
