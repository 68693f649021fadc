"""Commands on remote shards, as a user calls them."""

import json
import random
import shutil
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from nasvid.cli.main import main
from nasvid.data import cache
from nasvid.data.clips import clip_index, shard_cache
from nasvid.data.wids import ShardCount, write_index
from nasvid.host.display import Display
from nasvid.preflight import load_recipe
from nasvid.run import pipeline

pytestmark = pytest.mark.slow


def nasvid(*arguments: object, code: int = 0) -> Result:
    result = CliRunner().invoke(main, [str(argument) for argument in arguments], prog_name="nasvid")
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    assert result.exit_code == code, result.output
    return result


@pytest.fixture
def recipe(write_recipe, source, uneven, quick) -> Path:
    """Write a recipe whose clips come from a source that fails one request in five."""
    shutil.copytree(uneven, source.folder, dirs_exist_ok=True)
    rng = random.Random(2)
    source.fail = lambda number: rng.choice(("503", "reset", "short")) if number % 5 == 2 else None
    data = (
        f"data: {{train: '{source.url}/{{000..004}}.tar', val: '{source.url}/003.tar', mode: local,"
    )
    data += " max_skipped: 0.5, retries: 3, frames: 4,"
    return write_recipe(
        {"data: {frames: 4,": data, "steps: 2": "steps: 6", "budget: 8": "budget: 2\n  clips: 8"},
        more="  evaluators: []\n",
    )


def events(run: Path, kind: str) -> list[dict]:
    lines = (run / "events.jsonl").read_text().splitlines()
    return [event for event in map(json.loads, lines) if event["event"] == kind]


def test_a_streamed_run_resumes_on_two_ranks_with_the_batches_that_one_would_have(
    recipe, source, tmp_path, forked
):
    recipe.write_text(recipe.read_text().replace("mode: local,", "cache_limit: 300 kB,"))
    counts = enumerate((7, 1, 4, 9, 2))
    write_index(source.folder, [ShardCount(f"{n:03d}.tar", count) for n, count in counts])
    (source.folder / "000.tar").unlink()
    one, two = tmp_path / "one", tmp_path / "two"
    sets = ("training.checkpoint_every=3", "training.keep_checkpoints=2", "resolutions.32.batch=2")
    said = nasvid("run", recipe, "--out", one, *(f"--set={each}" for each in sets)).stdout
    assert "train data: 23 samples in 5 shards, streamed" in said
    assert "val data: 9 clips" in said
    assert {skip["reason"] for skip in events(one, "skip")} == {"unreachable shard"}
    assert (one / "report.html").exists()
    shutil.copytree(one, two)
    shutil.rmtree(two / "checkpoints" / "step-00000006")
    lines = (two / "events.jsonl").read_text().splitlines(keepends=True)
    before = events(one, "step")
    (two / "events.jsonl").write_text("".join(each for each in lines if '"step"' not in each))
    statuses, said = forked(2, lambda: pipeline.run(load_recipe(two / "recipe.yaml"), two))
    assert statuses == [0, 0], said
    resumed = events(two, "step")
    assert [event["step"] for event in resumed] == [3, 4, 5]
    for was, now in zip(before[3:], resumed, strict=True):
        assert now["loss"] == pytest.approx(was["loss"], rel=1e-5)


def test_a_run_whose_source_fails_and_lacks_a_shard(recipe, source, tmp_path):
    (source.folder / "001.tar").unlink()
    said = nasvid("run", recipe, "--out", tmp_path / "run").stdout
    assert "train data: 22 clips; skipped: 1 unreachable shard" in said
    assert "val data: 9 clips" in said
    (skip,) = events(tmp_path / "run", "skip")
    assert (skip["shard"], skip["reason"]) == (f"{source.url}/001.tar", "unreachable shard")
    assert "404" in skip["cause"]
    assert len(events(tmp_path / "run", "step")) == 6
    assert (tmp_path / "run" / "report.html").exists()
    fetched = [path for path in (tmp_path / "run" / "shards").iterdir() if path.name[0] != "."]
    assert len(fetched) == 4
    failed = sum(number % 5 == 2 for number in range(1, source.requests + 1))
    assert source.requests <= 5 + failed
    source.close()
    before = source.requests
    nasvid("run", recipe, "--out", tmp_path / "run", "--set", "search.budget=3")
    assert source.requests == before, "a resumed run has its shards"


def test_all_sources_gone_is_one_line(recipe, source, tmp_path):
    for shard in source.folder.iterdir():
        shard.unlink()
    done = nasvid("run", recipe, "--out", tmp_path / "run", code=2)
    assert done.stderr.startswith("error: data.train: none of the ")
    assert f"the first, {source.url}/000.tar: HTTP 404" in done.stderr
    assert done.stderr.count("\n") == 1
    source.close()
    cache._given_up.clear()  # as in another process
    options = ("--out", tmp_path / "another", "--set", "data.retries=0")
    done = nasvid("run", recipe, *options, code=2)
    assert "refused" in done.stderr
    assert done.stderr.count("\n") == 1


def test_an_inspection_of_what_is_elsewhere(recipe, source, uneven, tmp_path):
    url = f"{source.url}/{{000..004}}.tar"
    found = json.loads(nasvid("data", "inspect", url, "--json").stdout)
    local = json.loads(nasvid("data", "inspect", uneven / "*.tar", "--json").stdout)
    assert found == local
    piped = f"pipe:cat {uneven}/000.tar"
    assert "--allow-pipes" in nasvid("data", "inspect", piped, code=2).stderr
    kept = ("--cache", tmp_path / "kept")
    found = json.loads(nasvid("data", "inspect", piped, "--allow-pipes", "--json", *kept).stdout)
    assert found["clips"] == 7
    assert len(list((tmp_path / "kept").glob("*.tar"))) == 1


def test_runs_may_share_the_folder_of_fetched_shards(recipe, source, tmp_path):
    shared = load_recipe(recipe, overrides=[f"data.cache={tmp_path}/kept"]).recipe
    assert shard_cache(shared, tmp_path / "run").folder == tmp_path / "kept"
    own = load_recipe(recipe).recipe
    assert shard_cache(own, tmp_path / "run").folder == tmp_path / "run" / "shards"
    for run in ("one", "two"):
        clip_index(shared, "train", tmp_path / run, Display())
        assert len(set(source.asked)) == 5
        asked = source.requests
        source.fail = lambda number: "503"
    assert source.requests == asked


def test_an_encode_that_loses_its_source_keeps_what_it_has_and_goes_on(recipe, source, tmp_path):
    """A shard that may come back leaves no hole in the latents; whole ones need no source."""
    recipe.write_text(recipe.read_text() + "vae: {cache: latents}\n")
    nasvid("data", "encode", recipe)
    (complete,) = (tmp_path / "latents").glob("*/complete.json")
    before = json.loads(complete.read_text())
    samples = {name: found["samples"] for name, found in before.items()}
    assert samples == {"16/train": 23, "16/val": 9, "32/train": 23, "32/val": 9}
    complete.unlink()
    for shard in complete.parent.glob("*/train/*"):
        shard.unlink()
    for shard in (tmp_path / "latents" / "shards").glob("003-*.tar"):
        shard.unlink()
    (source.folder / "003.tar").rename(tmp_path / "away")
    said = nasvid("data", "encode", recipe, code=2).stderr
    assert "003.tar can no longer be fetched: HTTP 404" in said
    assert not complete.exists()
    (tmp_path / "away").rename(source.folder / "003.tar")
    cache._given_up.clear()
    nasvid("data", "encode", recipe)
    after = json.loads(complete.read_text())
    assert {name: found["samples"] for name, found in after.items()} == samples
    source.close()
    assert "latents: reusing those" in nasvid("data", "encode", recipe).stdout
