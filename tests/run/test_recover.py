"""The best candidates are trained further, and the final front is chosen by what they reach."""

import json
import shutil
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from click.testing import CliRunner

from nasvid.cli.main import main
from nasvid.export.subnet import load_exported, read_info
from nasvid.preflight import load_recipe
from nasvid.run.folder import existing
from nasvid.run.own_weights import OwnWeights
from nasvid.run.session import Session
from nasvid.run.tune import held_out_loss
from tests import processes

pytestmark = pytest.mark.slow
STEPS = 3


def nasvid(*words: object) -> str:
    done = CliRunner().invoke(main, [str(word) for word in words], catch_exceptions=False)
    assert done.exit_code == 0, done.output
    return done.output


def read(run: Path, name: str) -> dict:
    return json.loads((run / name).read_text())


@pytest.fixture(scope="module")
def run(tiny: Callable[..., str], tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("recover")
    recipe = tiny(
        resolutions={16: {"batch": 2}},
        data={"frames": 2, "context_len": 6, "workers": 0},
        training={"steps": 2, "learning_rate": 1e-3},
        search={"strategy": {"name": "random"}, "budget": 8, "clips": 2},
        front={
            "subnets": 2,
            "prompts": [],
            "evaluators": [],
            "recover": {"top": 2, "steps": STEPS, "learning_rate": 0.01, "teacher": {}},
        },
    )
    (folder / "recipe.yaml").write_text(recipe)
    nasvid("run", folder / "recipe.yaml", "--out", folder / "run")
    return folder / "run"


def test_the_record_has_both_losses_and_the_choice_is_by_the_second(run: Path) -> None:
    rows = read(run, "recover/recovered.json")["subnets"]
    record = map(json.loads, (run / "search/record.jsonl").read_text().splitlines())
    known = {line["id"]: line["metrics"] for line in record}
    assert 2 <= len(rows) <= 4
    assert {row["id"]: row["before"] for row in rows} == {
        row["id"]: known[row["id"]] for row in rows
    }
    for row in rows:
        assert row["after"]["loss"] < row["before"]["loss"]
        assert row["after"]["macs"] == row["before"]["macs"]
    after = {row["id"]: row["after"] for row in rows}
    front = read(run, "recover/front.json")
    for member in front["members"]:
        assert member["metrics"] == after[member["id"]]
        better = (m for m in after.values() if m["loss"] < member["metrics"]["loss"])
        assert all(m["macs"] > member["metrics"]["macs"] for m in better)
    text = (run / "report.html").read_text()
    assert "Candidates of the final choice" in text
    assert all(row["id"] in text for row in rows)


def test_what_is_extracted_has_the_weights_that_were_recovered(run: Path) -> None:
    session = Session(existing(run), load_recipe(run / "recipe.yaml"))
    weights, before = OwnWeights(session), session.supernet.net.state_dict()
    before = {name: tensor.clone() for name, tensor in before.items()}
    for member in read(run, "recover/front.json")["members"]:
        arch = session.components.space.architecture(member["arch"])
        exported = load_exported(run / "subnets" / arch.id)
        assert read_info(run / "subnets" / arch.id).metrics["loss"] == member["metrics"]["loss"]
        supernet = weights.supernet(arch)
        assert held_out_loss(session, supernet, arch)["loss"] == member["metrics"]["loss"]
        for name, tensor in supernet.extract(arch).state_dict().items():
            assert torch.equal(tensor, exported.state_dict()[name]), name
        shared = session.supernet.extract(arch).state_dict()
        assert any(not torch.equal(shared[n], t) for n, t in exported.state_dict().items())
    for name, tensor in session.supernet.net.state_dict().items():
        assert torch.equal(tensor, before[name]), f"{name} of the supernet has changed"


def test_a_recovery_killed_at_any_instant_ends_with_the_same_bytes(
    run: Path, tmp_path: Path, rng
) -> None:
    torn = tmp_path / "run"
    shutil.copytree(run, torn)
    shutil.rmtree(torn / "recover")
    words = ("run", torn / "recipe.yaml", "--out", torn)
    log = torn / "events.jsonl"
    wanted = log.read_text().count("recover_step") + rng.randrange(1, 2 * STEPS + 1)
    process = processes.Started(tmp_path / "said", processes.nasvid, *words)
    while process.poll() is None and log.read_text().count("recover_step") < wanted:
        time.sleep(0.005)
    process.kill()
    nasvid(*words)
    for name in ("recovered.json", "front.json"):
        assert (torn / "recover" / name).read_bytes() == (run / "recover" / name).read_bytes()
    for name in ("recovered.json", "front.json"):
        (torn / "recover" / name).write_text("{")
        said = nasvid(*words)
        assert f"{name} is damaged" in said
        assert "recover: nothing to do" in said or name == "recovered.json"
        assert (torn / "recover" / name).read_bytes() == (run / "recover" / name).read_bytes()
    nasvid("search", torn, "--set", "front.recover=null")
    assert not (torn / "recover/front.json").exists()
    (first, *_) = read(torn, "search/front.json")["members"]
    assert read_info(torn / "subnets" / first["id"]).metrics["loss"] == first["metrics"]["loss"]
