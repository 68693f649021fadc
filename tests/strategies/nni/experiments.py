"""Starts real experiments of NNI, and reads what NNI itself keeps of them."""

import json
import re
import sqlite3
from collections.abc import Mapping
from functools import partial
from pathlib import Path

import psutil

from nasvid.evaluation import Evaluation
from nasvid.search.record import read_record
from tests.processes import Started
from tests.strategies.nni.searching import search


def start(folder: Path, env: Mapping[str, str] | None = None, **options) -> Started:
    return Started(folder / "said", partial(search, folder, **options), env=env)


def finish(process: Started) -> str:
    assert process.wait(90) == 0, process.said
    return process.said


def shown_at(process: Started) -> tuple[str, str]:
    """The address that a search prints, and the token in it."""
    process.wait_for(lambda: "\n" in process.said)
    line = process.said.partition("\n")[0]
    found = re.fullmatch(r"nni: experiment \w+ at (http://[\w.]+:\d+)/\?token=([\w-]+)", line)
    assert found, line
    return found[1], found[2]


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
