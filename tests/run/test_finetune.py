"""Fine-tuning by name: any subnet of a run, kept beside those of the front, and never twice."""

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from click.testing import CliRunner

from nasvid.cli.main import main
from nasvid.export.subnet import load_exported, read_info

pytestmark = pytest.mark.slow
STEPS = 4


def nasvid(*words: object) -> str:
    done = CliRunner().invoke(main, [str(word) for word in words], catch_exceptions=False)
    assert done.exit_code == 0, done.output
    return done.output


@pytest.fixture(scope="module")
def searched(tiny: Callable[..., str], tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("finetune")
    recipe = tiny(
        resolutions={16: {"batch": 2}},
        data={"frames": 2, "context_len": 6, "workers": 0},
        training={"steps": 2, "learning_rate": 1e-3, "checkpoint_every": 1},
        search={"strategy": {"name": "random"}, "budget": 6, "clips": 2},
        front={"subnets": 1, "prompts": [], "evaluators": []},
    )
    (folder / "recipe.yaml").write_text(recipe)
    nasvid("run", folder / "recipe.yaml", "--out", folder / "run")
    return folder / "run"


@pytest.fixture
def run(searched: Path, tmp_path: Path) -> Path:
    shutil.copytree(searched, tmp_path / "run")
    return tmp_path / "run"


def ids(run: Path, *, front: bool) -> list[str]:
    chosen = [m["id"] for m in json.loads((run / "search/front.json").read_text())["members"]]
    record = (run / "search/record.jsonl").read_text().splitlines()
    return (
        chosen if front else [i for i in (json.loads(r)["id"] for r in record) if i not in chosen]
    )


def tuned(run: Path) -> dict[str, dict]:
    found = json.loads((run / "finetune/finetuned.json").read_text())["subnets"]
    return {each["id"]: each for each in found}


def test_any_subnet_is_fine_tuned_by_its_id(run: Path) -> None:
    first, second = ids(run, front=False)[:2]
    said = nasvid("finetune", run, first[:6], "--set", f"finetune.steps={STEPS}")
    folder = run / "finetune/subnets" / first
    assert said.splitlines()[-1] == str(folder)
    assert read_info(folder).metrics["loss"] == tuned(run)[first]["after"]["loss"]
    load_exported(folder)
    assert first in (run / "report.html").read_text()
    nasvid("finetune", run, second)
    (steps,) = {int(path.name[5:]) for path in run.glob("finetune/checkpoints/*/*")} - {3}
    assert steps == STEPS, "the setting is kept"
    assert "nothing to do" in nasvid("finetune", run, first, second)
    said = nasvid("run", run / "recipe.yaml", "--out", run)
    assert "0 subnets already fine-tuned" in said
    assert tuned(run).keys() == {first, second}, "a run leaves them as they are"
    for word in ("--set", "finetune.subnets=1"), ():
        nasvid("finetune", run, *word)
        assert tuned(run).keys() == {first, second, *ids(run, front=True)}


def test_what_is_exported_and_sampled_is_what_was_trained_last(run: Path, tmp_path: Path) -> None:
    (first, *_) = ids(run, front=True)
    nasvid("finetune", run, first, "--set", f"finetune.steps={STEPS}")
    killed = [tmp_path / "after" / f".{first}{old}.99999999.unfinished" for old in ("", ".old")]
    alive = tmp_path / "after" / f".{first}.{os.getppid()}.unfinished"
    for left in (*killed, alive):
        left.mkdir(parents=True)
    nasvid("export", run, first, "--out", tmp_path / "after")
    assert alive.is_dir()
    assert not any(left.exists() for left in killed)
    nasvid("export", run, first, "--out", tmp_path / "before", "--before-finetuning")
    weights = "unet/diffusion_pytorch_model.safetensors"
    after, before = (tmp_path / each / first for each in ("after", "before"))
    assert (after / weights).read_bytes() == (
        run / "finetune/subnets" / first / weights
    ).read_bytes()
    assert read_info(after).metrics["loss"] == tuned(run)[first]["after"]["loss"]
    assert (before / weights).read_bytes() == (run / "subnets" / first / weights).read_bytes()
    shown = ("sample", run, "--subnet", first, "--prompt", "x", "--steps", 2)
    nasvid(*shown, "--out", tmp_path / "after.webp")
    nasvid(*shown, "--out", tmp_path / "before.webp", "--before-finetuning")
    assert (tmp_path / "after.webp").read_bytes() != (tmp_path / "before.webp").read_bytes()


def test_a_fine_tuning_resumes_from_its_last_checkpoint_with_the_same_bytes(run: Path) -> None:
    nasvid("finetune", run, "largest", "--set", f"finetune.steps={STEPS}")
    folder = run / "finetune"
    names = (
        "finetuned.json",
        "subnets/*/unet/*.safetensors",
        f"checkpoints/*/step-0000000{STEPS}/*",
    )
    before = {path: path.read_bytes() for name in names for path in folder.glob(name)}
    assert len(before) == 5
    (folder / "finetuned.json").unlink()
    shutil.rmtree(folder / "subnets")
    shutil.rmtree(next(folder.glob(names[2])).parent)
    log = run / "events.jsonl"
    steps = log.read_text().count("finetune_step")
    nasvid("finetune", run, "largest")
    assert log.read_text().count("finetune_step") == steps + 1
    assert {path: path.read_bytes() for path in before} == before


def test_what_cannot_be_fine_tuned_is_one_message(run: Path, error_of) -> None:
    assert "the recipe fine-tunes none of the front; name subnets" in error_of("finetune", run)
    assert "has no subnet 'zzz'" in error_of("finetune", run, "zzz")
    changed = error_of("finetune", run, "largest", "--set", "training.steps=9")
    assert "training.steps = 2, but the recipe has 9" in changed
    assert not (run / "finetune").exists()
    shutil.rmtree(run / "checkpoints")
    assert "train first" in error_of("finetune", run, "largest")
