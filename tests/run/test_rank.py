"""Architectures trained alone: chosen once, resumed to the bit, and never mixed with others."""

import json
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from click.testing import CliRunner

from nasvid.cli.main import main
from nasvid.errors import Damaged
from nasvid.host.files import write_json
from nasvid.report.collect import collect
from nasvid.run.folder import RunFolder
from nasvid.run.rank import read_ranking
from tests.processes import Started, nasvid

pytestmark = pytest.mark.slow

N, STEPS = 3, 6


def rank(run: Path, *more: object) -> str:
    words = ["rank", run, "--n", N, "--steps", STEPS, *more]
    done = CliRunner().invoke(main, [str(word) for word in words], catch_exceptions=False)
    assert done.exit_code == 0, done.output
    return done.stdout


def ranking(run: Path) -> dict:
    return json.loads((run / "rank/ranking.json").read_text())


def trained(run: Path) -> dict[str, bytes]:
    """What training alone has made, with what it says."""
    files = (path for path in (run / "rank").rglob("*") if path.is_file())
    return {str(path.relative_to(run)): path.read_bytes() for path in files}


@pytest.fixture(scope="module")
def supernet(tiny: Callable[..., str], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run whose supernet is trained."""
    folder = tmp_path_factory.mktemp("rank")
    recipe = tiny(
        resolutions={16: {"batch": 2}, 24: {"batch": "auto"}},
        data={"frames": 2, "context_len": 6, "workers": 0},
        training={"steps": 4, "learning_rate": 1e-3, "checkpoint_every": 2},
        search={"strategy": {"name": "random"}, "budget": 2, "clips": 2},
        front={"subnets": 1, "prompts": [], "evaluators": []},
    )
    (folder / "recipe.yaml").write_text(recipe)
    words = ["run", str(folder / "recipe.yaml"), "--out", str(folder / "run")]
    assert CliRunner().invoke(main, words, catch_exceptions=False).exit_code == 0
    return folder / "run"


@pytest.fixture(scope="module")
def whole(supernet: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same run, ranked."""
    folder = tmp_path_factory.mktemp("whole") / "run"
    shutil.copytree(supernet, folder)
    rank(folder)
    return folder


@pytest.fixture
def run(whole: Path, tmp_path: Path) -> Iterator[Path]:
    """A copy of it."""
    shutil.copytree(whole, tmp_path / "run")
    yield tmp_path / "run"
    shutil.rmtree(tmp_path / "run")


def test_it_is_killed_at_any_instant_and_ends_with_the_same_bytes(supernet, whole, tmp_path, rng):
    run = tmp_path / "run"
    shutil.copytree(supernet, run)
    log, wanted = run / "events.jsonl", rng.randrange(1, N * STEPS)
    words = ("rank", run, f"--n={N}", f"--steps={STEPS}")
    process = Started(tmp_path / "said", nasvid, *words)
    process.wait_for(lambda: log.read_text().count('"event": "rank_step"') >= wanted)
    process.kill()
    assert trained(run) != trained(whole)
    rank(run)
    assert trained(run) == trained(whole)


def test_a_larger_number_trains_only_what_is_missing(run, whole):
    before = (run / "events.jsonl").read_text()
    said = rank(run, "--n", N + 1)
    new = (run / "events.jsonl").read_text().removeprefix(before)
    assert new.count('"event": "rank_step"') == STEPS
    assert ranking(run)["subnets"][:N] == ranking(whole)["subnets"]
    assert len(ranking(run)["subnets"]) == N + 1
    for row in ranking(run)["subnets"]:
        assert row["id"] in said
    assert f"{N} architectures already trained alone" in rank(run)
    assert ranking(run) == ranking(whole)


def test_other_steps_and_other_clips_do_not_mix_with_these(run, whole):
    rank(run, "--steps", 2)
    for ours, theirs in zip(ranking(run)["subnets"], ranking(whole)["subnets"], strict=True):
        assert ours["inherited"] == theirs["inherited"]
        assert ours["alone"] != theirs["alone"]
    recipe = run / "recipe.yaml"
    text = recipe.read_text()
    recipe.write_text(text.replace("clips: 2\n", "clips: 3\n"))
    before = (run / "events.jsonl").read_text()
    rank(run)
    assert "rank_step" not in (run / "events.jsonl").read_text().removeprefix(before)
    for ours, theirs in zip(ranking(run)["subnets"], ranking(whole)["subnets"], strict=True):
        assert ours["alone"] != theirs["alone"]
        assert ours["inherited"] != theirs["inherited"]
    recipe.write_text(text)
    rank(run)
    assert ranking(run) == ranking(whole)


def test_json_is_the_file_and_progress_goes_elsewhere(run):
    assert json.loads(rank(run, "--json")) == ranking(run)


def test_damage_is_mended_and_said(run, whole):
    (run / "rank/ranking.json").write_text('{"subnets": [')
    last = min(run.glob("rank/checkpoints/*/*/weights.safetensors"))
    last.write_bytes(b"")
    said = rank(run)
    assert "ranking.json is damaged" in said
    assert f"{last} is damaged" in said
    assert trained(run) == trained(whole)


@pytest.mark.parametrize("key", ["n", "agreement", "settings"])
def test_a_ranking_that_lacks_something_is_damaged(key, whole, tmp_path):
    content = ranking(whole)
    del content[key]
    shutil.copytree(whole, tmp_path, dirs_exist_ok=True)
    run = RunFolder(tmp_path)
    write_json(run.rank / "ranking.json", content)
    for read in (lambda: read_ranking(run), lambda: collect(tmp_path)):
        with pytest.raises(Damaged, match=f"it has no '{key}'.*; nasvid rank makes it again"):
            read()


def test_a_supernet_that_is_not_trained_is_not_ranked(run, error_of):
    shutil.rmtree(run / "checkpoints")
    shutil.rmtree(run / "rank")
    assert "holds no intact checkpoint; train first with nasvid run" in error_of("rank", run)
    assert not (run / "rank").exists()


def test_a_run_that_is_at_work_is_left_alone(run, error_of):
    from nasvid.host.lock import locked

    with locked(run):
        assert "is in use by process" in error_of("rank", run)


def test_a_ranked_architecture_is_a_subnet_of_the_run(run: Path) -> None:
    lines = (run / "search/record.jsonl").read_text().splitlines()
    evaluated = {json.loads(line)["id"] for line in lines}
    ranked = {row["id"] for row in json.loads((run / "rank/ranking.json").read_text())["subnets"]}
    (one, *_) = sorted(ranked - evaluated)
    done = CliRunner().invoke(main, ["extract", str(run), one], catch_exceptions=False)
    assert done.exit_code == 0
    assert (run / "subnets" / one / "unet/config.json").exists()
