"""Real experiments of NNI: what they show is what was searched."""

import sqlite3
from pathlib import Path

import pytest
import requests

from nasvid.errors import UserError
from nasvid.search.record import read_record
from nasvid.strategy import RunContext, StrategySection
from nasvid.testing.toy import ToySpace
from nasvid_strategies.nni import binding
from nasvid_strategies.nni import trials as trials_module
from tests.strategies.nni.experiments import check_against_record, trials
from tests.strategies.nni.searching import search

pytestmark = pytest.mark.slow

SMALL, WIDE = dict(ToySpace.of().smallest), dict(ToySpace.of().largest)


def test_every_trial_is_an_architecture_of_the_record(tmp_path, nothing_left, free_port):
    named = [{"width": 2}, {"width": 4}, {"block.0": False}, {"width": 2}]
    result = search(
        tmp_path,
        tuner="Batch",
        arguments={"architectures": named},
        port=free_port(),
        concurrency=2,
    )
    records = read_record(tmp_path / "record.jsonl")
    assert [r.arch for r in records] == [r.arch for r in result.evaluations]
    check_against_record(tmp_path, records)
    assert len(trials(tmp_path)) == len(records)
    space = ToySpace.of()
    asked = [SMALL, WIDE, *(dict(space.architecture(WIDE | choices)) for choices in named[:3])]
    assert [dict(record.arch) for record in records] == asked
    assert "nothing left to propose" in result.messages[0]


def test_what_misses_a_constraint_ends_at_once_and_is_shown(tmp_path, nothing_left, free_port):
    options = {"tuner": "Random", "port": free_port(), "constraints": ("params <= 120",)}
    search(tmp_path, **options, budget=4)
    records = read_record(tmp_path / "record.jsonl")
    assert len(records) == 4
    check_against_record(tmp_path, records)
    evaluated = {record.about["trial"] for record in records}
    refused = [trial for name, trial in trials(tmp_path).items() if name not in evaluated]
    assert len(refused) >= 2
    space = ToySpace.of()
    for trial in refused:
        assert trial["events"][-1] == "SUCCEEDED"
        assert trial["final"]["params"] > 120
        assert trial["final"]["violation"] == pytest.approx(trial["final"]["params"] / 120 - 1)
        assert trial["final"]["default"] > min(r.metrics["loss"] for r in records)
        assert space.architecture(trial["parameters"]) not in {r.arch for r in records}


def test_a_trial_that_does_not_begin_is_an_error(tmp_path, nothing_left, free_port, monkeypatch):
    monkeypatch.setattr(trials_module, "BEGIN_SECONDS", 2.0)
    monkeypatch.setattr(binding.Manager, "send_trial", lambda self, number, parameters: None)
    with pytest.raises(UserError, match=r"NNI has not started the trial of \w+ within 2 seconds"):
        search(tmp_path, tuner="Random", port=free_port())


def test_a_search_that_was_moved_goes_on_and_runs_only_its_own_trials(
    tmp_path: Path, nothing_left, free_port
):
    """Where others could reach the pages, too."""
    old, new = tmp_path / "old", tmp_path / "new"
    old.mkdir()
    said: list[str] = []
    options = {"tuner": "Random", "host": "0.0.0.0", "port": free_port()}
    search(old, said.append, **options, budget=2)
    warned = said[0]
    assert "WARNING: the web UI listens on 0.0.0.0 without encryption" in warned
    old.rename(new)
    said.clear()
    section = StrategySection.model_validate({"name": "nni", **options})
    with section.page(RunContext("toy", new / "nni", said.append)) as address:
        assert said == [warned]
        assert requests.get(address, timeout=10).status_code == 200
    search(new, **options, budget=3)
    assert len(read_record(new / "record.jsonl")) == 3
    known = binding._known(new / "nni")["id"]
    assert binding._is_own(new / "nni", known)
    with sqlite3.connect(new / "nni" / known / "db/nni.sqlite") as database:
        database.execute(
            "update ExperimentProfile set params = replace(params, 'bash trial.sh', 'touch evil')"
        )
    assert not binding._is_own(new / "nni", known)
