"""Starts real experiments of NNI, and reads what NNI itself keeps of them."""

import json
import re
import sqlite3
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path

import psutil

from nasvid.evaluation import Evaluation
from nasvid.search.record import read_record

SCRIPT = Path(__file__).with_name("searching.py")


def start(folder: Path, env: Mapping[str, str] | None = None, **options) -> subprocess.Popen:
    return subprocess.Popen(
        [sys.executable, SCRIPT, folder, json.dumps(options)],
        env=env,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def finish(process: subprocess.Popen) -> str:
    said, _ = process.communicate(timeout=90)
    assert process.returncode == 0, said
    return said


def shown_at(process: subprocess.Popen) -> tuple[str, str]:
    """The address that a search prints, and the token in it."""
    assert process.stdout is not None
    line = process.stdout.readline()
    found = re.fullmatch(r"nni: experiment \w+ at (http://[\w.]+:\d+)/\?token=([\w-]+)\n", line)
    assert found, line
    return found[1], found[2]


def wait_for(reached: Callable[[], bool], process: subprocess.Popen) -> None:
    until = time.monotonic() + 60
    while not reached():
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < until
        time.sleep(0.01)


def lines(path: Path) -> int:
    return path.read_bytes().count(b"\n") if path.exists() else 0


def plain(folder: Path) -> list[tuple]:
    return [(r.arch, r.metrics) for r in read_record(folder / "record.jsonl")]


def managers(folder: Path) -> list[psutil.Process]:
    """The processes that belong to a folder's experiment: NNI's manager and its trials."""
    found = []
    for process in psutil.process_iter(["cmdline", "cwd", "name"]):
        info = process.info
        words = " ".join(info["cmdline"] or [])
        if str(folder) in words or str(info["cwd"] or "").startswith(str(folder)):
            found.append(process)
    return [process for process in found if process.info["name"] in ("node", "bash")]


def trials(folder: Path) -> dict[str, dict]:
    """What NNI's own database says of each trial: parameters, events, metrics."""
    (path,) = folder.glob("nni/[!_]*/db/nni.sqlite")
    with sqlite3.connect(path) as database:
        events = database.execute(
            "select trialJobId, event, data from TrialJobEvent where trialJobId != '' "
            "order by timestamp"
        ).fetchall()
        metrics = database.execute(
            "select trialJobId, type, sequence, data from MetricData order by timestamp, sequence"
        ).fetchall()
    found: dict[str, dict] = {}
    for trial, event, data in events:
        entry = found.setdefault(trial, {"events": [], "steps": [], "final": None})
        entry["events"].append(event)
        if data:
            entry["parameters"] = json.loads(data)["parameters"]
    for trial, kind, _, data in metrics:
        value = json.loads(json.loads(data))
        if kind == "FINAL":
            found[trial]["final"] = value
        else:
            found[trial]["steps"].append(value)
    return found


def check_against_record(folder: Path, records: list[Evaluation], objective: str = "loss") -> None:
    """Each evaluated architecture is one trial that succeeded, with its choices and its metrics."""
    shown = trials(folder)
    for record in records:
        trial = shown[record.about["trial"]]
        assert trial["events"][-1] == "SUCCEEDED"
        assert trial["parameters"] == dict(record.arch)
        assert trial["final"]["default"] == record.metrics[objective]
        assert {name: trial["final"][name] for name in record.metrics} == record.metrics
        sides = [name for name in record.metrics if name.startswith(f"{objective}@")]
        assert trial["steps"] == [record.metrics[name] for name in sides]
    assert len({record.about["trial"] for record in records}) == len(records)
