"""Ctrl-C at any instant, a terminal that is closed, a reader of the output that goes away."""

import fcntl
import json
import os
import signal
import subprocess
import sys
import termios
import time
from collections.abc import Callable
from pathlib import Path
from random import Random

import pytest

pytestmark = pytest.mark.slow

NASVID = [sys.executable, "-m", "nasvid"]
CODE = "from nasvid.cli.entry import nasvid; print('begun', flush=True); nasvid()"
BEGUN = [sys.executable, "-c", CODE]
"""Says when it begins: what comes before, the start of the interpreter, is not ours."""
ENV = os.environ | {"OMP_NUM_THREADS": "1"}


@pytest.fixture
def recipe(write_recipe: Callable[..., Path]) -> Path:
    """A recipe whose training ends only when it is told to."""
    return write_recipe({"steps: 2": "steps: 100000"})


def steps(out: Path) -> int:
    path = out / "events.jsonl"
    return path.read_text().count('"event": "step"') if path.exists() else 0


def wait_for(reached: Callable[[], bool], process: subprocess.Popen) -> None:
    deadline = time.monotonic() + 60
    while not reached():
        assert process.poll() is None
        assert time.monotonic() < deadline
        time.sleep(0.005)


def test_ctrl_c_never_ends_in_a_traceback(recipe: Path, tmp_path: Path, rng: Random) -> None:
    for again in (None, 0.0, 0.5):
        for after in (0.05, 2 * rng.random()):
            process = subprocess.Popen(
                [*BEGUN, "run", str(recipe), "--out", str(tmp_path / f"{again}-{after}")],
                env=ENV,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                text=True,
            )
            assert process.stdout
            assert process.stdout.readline() == "begun\n"
            time.sleep(after)
            process.send_signal(signal.SIGINT)
            if again is not None:
                time.sleep(again)
                process.send_signal(signal.SIGINT)
            out, err = process.communicate(timeout=60)
            case = f"{after} s, then {again}: {process.returncode}\n{out}{err}"
            assert process.returncode in (130, -signal.SIGINT), case
            assert "Traceback" not in err, case
            assert "Interrupted" in err or again is not None, case


def test_a_closed_terminal_saves_the_steps(recipe: Path, tmp_path: Path) -> None:
    out = tmp_path / "run"
    ours, theirs = os.openpty()
    process = subprocess.Popen(
        [*NASVID, "run", str(recipe), "--out", str(out)],
        env=ENV,
        stdin=theirs,
        stdout=theirs,
        stderr=theirs,
        start_new_session=True,
        preexec_fn=lambda: fcntl.ioctl(0, termios.TIOCSCTTY, 0),
    )
    os.close(theirs)
    wait_for(lambda: steps(out) >= 3, process)
    os.close(ours)
    assert process.wait(timeout=60) == 128 + signal.SIGHUP
    saved = max((out / "checkpoints").iterdir()).name
    assert saved == f"step-{steps(out):08d}"


def test_a_run_outlives_the_readers_of_its_output(
    write_recipe: Callable[..., Path], tmp_path: Path
) -> None:
    recipe, out = write_recipe(), tmp_path / "run"
    process = subprocess.Popen(
        [*NASVID, "run", str(recipe), "--out", str(out)],
        env=ENV,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    assert process.stdout
    assert process.stderr
    process.stdout.close()
    process.stderr.close()
    assert process.wait(timeout=120) == 0
    assert (out / "report.html").exists()
    assert json.loads((out / "search/front.json").read_text())["members"]
