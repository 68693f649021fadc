"""The verbs on a finished run, as a user calls them."""

import html
import json
import os
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from PIL import Image
from safetensors.torch import load_file

from nasvid.cli.main import main
from nasvid.export.video import read_mp4
from nasvid.preflight import load_recipe
from nasvid.run.folder import existing
from nasvid.run.session import Session

pytestmark = pytest.mark.slow

PROMPT = "the digit 7 moves up"


def nasvid(*arguments: object) -> str:
    result = CliRunner().invoke(main, list(map(str, arguments)), catch_exceptions=False)
    assert result.exit_code == 0, result.output
    return result.stdout.strip()


def in_process_of_its_own(*arguments: object) -> str:
    command = [sys.executable, "-m", "nasvid", *map(str, arguments)]
    env = os.environ | {"OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, capture_output=True, text=True, env=env, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def run(tiny, tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("verbs")
    recipe = tiny(
        training={"steps": 4, "learning_rate": 1e-3},
        search={
            "strategy": {"name": "random"},
            "budget": 8,
            "clips": 8,
            "constraints": ["params <= 40e3"],
        },
        front={"subnets": 3, "prompts": ["the digit 3 moves left"], "sampling_steps": 3},
    )
    (folder / "tiny.yaml").write_text(recipe)
    in_process_of_its_own("run", folder / "tiny.yaml", "--out", folder / "run")
    return folder / "run"


def opened(run: Path) -> Session:
    folder = existing(run)
    return Session(folder, load_recipe(folder.recipe))


def members(run: Path) -> list[dict]:
    return json.loads((run / "search/front.json").read_text())["members"]


def exported(run: Path, id_: str) -> dict[str, float]:
    return json.loads((run / "subnets" / id_ / "nasvid.json").read_text())["metrics"]


def test_a_run_leaves_everything_that_it_promises(run):
    evaluated = json.loads((run / "evaluate/metrics.json").read_text())["metrics"]
    for member in members(run):
        assert member["metrics"]["params"] <= 40e3
        assert evaluated[member["id"]]["latency_ms@32"] > 0
        assert exported(run, member["id"])["latency_ms@32"] > 0
        assert (run / "subnets" / member["id"] / "unet" / "config.json").exists()
        for side in (16, 32):
            video = read_mp4(run / "samples" / member["id"] / f"{side}-0.mp4")
            assert video.shape == (4, 128, 128, 3)
    assert (run / "samples/real/32-0.mp4").exists()
    mean_loss = json.loads((run / "search/mean_loss.json").read_text())
    assert all(0.1 < mean_loss[side] < 1.5 for side in ("16", "32"))
    page = (run / "report.html").read_text()
    assert all(member["id"] in page for member in members(run))


def test_running_again_makes_nothing_again(run):
    before = {p: p.stat().st_mtime_ns for p in run.rglob("*.safetensors")}
    record = (run / "search/record.jsonl").read_bytes()
    nasvid("run", run / "recipe.yaml", "--out", run)
    assert {p: p.stat().st_mtime_ns for p in run.rglob("*.safetensors")} == before
    assert (run / "search/record.jsonl").read_bytes() == record


def test_searching_again_keeps_the_record_and_adds_to_it(run):
    record = (run / "search/record.jsonl").read_bytes()
    nasvid("search", run, "--set", "search.budget=10")
    longer = (run / "search/record.jsonl").read_bytes()
    assert longer.startswith(record)
    assert longer.count(b"\n") == 10


def test_another_judge_begins_another_record(run):
    record = (run / "search/record.jsonl").read_bytes()
    out = nasvid("search", run, "--set", "search.clips=4")
    assert "a new record" in out
    assert (run / "search/record-1.jsonl").read_bytes() == record
    assert (run / "search/record.jsonl").read_bytes().count(b"\n") == record.count(b"\n")


def test_a_search_that_finds_nothing_says_so_and_leaves_the_run_as_it_was(run, everything):
    before, page = everything(run), (run / "report.html").read_text()
    unmet = ["search", run, "--set", "search.constraints=['loss <= 1e-9']"]
    done = CliRunner().invoke(main, [str(word) for word in unmet])
    assert done.exit_code == 2
    assert re.fullmatch(
        r"error: None of \d+ evaluated architectures satisfies search\.constraints: "
        r"loss <= 1e-09 holds for 0 \(the lowest is [\d.]+\)\. Relax them\n",
        done.stderr,
    )
    changed = {p.name for p, b in everything(run).items() if before.get(p) != b}
    assert changed <= {"unmet.json", "record.jsonl", "events.jsonl", "report.html"} | {
        "environment.json"
    }
    assert "extract" not in done.stdout
    told = (run / "report.html").read_text()
    assert "The last search found nothing" in told
    assert "loss &lt;= 1e-09 holds for 0" in told
    assert "The last search found nothing" not in page
    nasvid("search", run)
    assert "The last search found nothing" not in (run / "report.html").read_text()


def test_what_would_need_another_supernet_is_refused(run):
    done = CliRunner().invoke(main, ["search", str(run), "--set", "training.steps=9"])
    assert done.exit_code == 2
    assert "training.steps = 4, but the recipe has 9" in done.stderr
    assert "steps: 4" in (run / "recipe.yaml").read_text()


def test_a_step_is_exported_beside_whole_folders(run, tmp_path, everything):
    id_, before = members(run)[0]["id"], everything(run)
    words = ["export", run, id_[:6], "--out", tmp_path, "--format", "pt2", "--at", 16]
    done = CliRunner().invoke(main, [*map(str, words), "--at", "16"])
    assert done.exit_code == 0, done.output
    said, path = done.stdout.splitlines()
    assert said == "torch.export: 16.pt2 predicts as the model to 0.0e+00"
    assert Path(path) == tmp_path / f"{id_}-pt2"
    assert (tmp_path / f"{id_}-pt2" / "16.pt2").exists()
    about = json.loads((tmp_path / f"{id_}-pt2" / "step.json").read_text())
    (file,) = about["files"].values()
    assert file["inputs"]["sample"]["shape"][0] == "batch", "any number of clips"
    assert not (tmp_path / f"{id_}-pt2" / "32.pt2").exists()
    assert everything(run) == before
    words = ["extract", run, id_, "--format", "pt2", "--at", 48]
    refused = CliRunner().invoke(main, [*map(str, words)])
    assert refused.exit_code == 2
    assert "--at 48 is not a resolution of this run; use one of 16, 32" in refused.stderr
    assert everything(run) == before


@pytest.mark.parametrize("side", [16, 32])
def test_sample_writes_a_video(run, tmp_path, side):
    target = tmp_path / "v.mp4"
    id_ = members(run)[0]["id"]
    options = ["--subnet", id_[:6], "--prompt", PROMPT, "--resolution", side, "--out", target]
    nasvid("sample", run, *options)
    assert read_mp4(target).shape == (4, 128, 128, 3)


def test_sample_writes_the_format_that_the_file_ends_in(run, tmp_path):
    options = ["sample", run, "--subnet", members(run)[0]["id"], "--prompt", PROMPT]
    shown = {}
    for name, format_ in {"a.webp": "WEBP", "a.gif": "GIF"}.items():
        nasvid(*options, "--out", tmp_path / name)
        with Image.open(tmp_path / name) as image:
            assert (image.format, image.n_frames, image.size) == (format_, 4, (128, 128))
            shown[format_] = np.asarray(image.convert("RGB"), dtype=int)
    assert np.abs(shown["GIF"] - shown["WEBP"]).mean() < 16


def test_sample_by_itself_replaces_no_file_and_takes_steps_and_guidance(run, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    id_ = members(run)[0]["id"]
    options = ["sample", run, "--subnet", id_, "--prompt", "The digit: 7!"]
    names = [
        nasvid(*options, *more)
        for more in ((), (), ("--steps", 3), ("--steps", 2), ("--guidance", 9))
    ]
    assert names == [f"{id_}-32-the-digit-7{end}.mp4" for end in ("", "-2", "-3", "-4", "-5")]
    first, same, as_recipe, steps, guidance = (Path(name).read_bytes() for name in names)
    assert first == same == as_recipe
    assert len({first, steps, guidance}) == 3


def test_the_commands_that_the_report_prints_run_as_printed(run, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    codes = re.findall(r"<code>(nasvid [^<]*)</code>", (run / "report.html").read_text())
    commands = {html.unescape(code) for code in codes}
    assert len(commands) == len(members(run))
    for command in commands:
        assert Path(nasvid(*shlex.split(command)[1:])).exists()


def test_an_exported_subnet_makes_what_sample_makes_where_nasvid_is_not(run, tmp_path):
    """By the lines on its card, to the bit."""
    id_, prompt = members(run)[-1]["id"], "the digit 3 moves left"
    folder = tmp_path / "taken" / id_
    nasvid("export", run, id_, "--out", tmp_path / "taken", "--copy")
    command = ["sample", run, "--subnet", id_, "--prompt", prompt, "--out", tmp_path / "ours.webp"]
    nasvid(*command)
    card = (folder / "README.md").read_text()
    script = f"""
import sys
sys.modules["nasvid"] = sys.modules["nasvid_spaces"] = None
{card.split("```python")[1].split("```")[0]}
"""
    env = os.environ | {"OMP_NUM_THREADS": "1", "HF_MODULES_CACHE": str(tmp_path / "modules")}
    subprocess.run([sys.executable, "-c", script], cwd=folder, env=env, check=True)
    ours, theirs = pictures(tmp_path / "ours.webp"), pictures(folder / "video.webp")
    assert theirs.shape == (4, 32, 32, 3)
    assert np.array_equal(ours[:, ::4, ::4], theirs)


def pictures(path: Path) -> np.ndarray:
    with Image.open(path) as image:
        frames = []
        for index in range(image.n_frames):
            image.seek(index)
            frames.append(np.asarray(image.convert("RGB")))
    return np.stack(frames)


def test_report_is_written_again(run):
    (run / "report.html").unlink()
    nasvid("report", run)
    assert (run / "report.html").stat().st_size > 100_000


def test_the_whole_supernet_is_exported_by_name(run, tmp_path):
    nasvid("export", run, "largest", "--out", tmp_path)
    (folder,) = tmp_path.iterdir()
    session = opened(run)
    assert folder.name == session.components.space.largest.id
    (weights,) = (folder / "unet").glob("*.safetensors")
    saved = load_file(weights)
    expected = session.supernet.net.state_dict()
    assert saved.keys() == expected.keys()
    assert all(torch.equal(saved[name], tensor) for name, tensor in expected.items())


def test_the_best_checkpoint_is_kept_and_searched(run, tmp_path):
    every = [
        "training.checkpoint_every=1",
        "training.keep_checkpoints=1",
        "training.keep_best=true",
    ]
    # A rate at which training only makes it worse: the first checkpoint is the best.
    every += ["training.learning_rate=0.5", "training.lr_warmup=0", "training.ema_decay=0"]
    sets = [x for each in every for x in ("--set", each)]
    out = tmp_path / "run"
    nasvid("run", run.parent / "tiny.yaml", "--out", out, *sets)
    events = [json.loads(line) for line in (out / "events.jsonl").read_text().splitlines()]
    losses = [event["loss"] for event in events if event["event"] == "validation"]
    assert len(losses) == 4
    best = 1 + losses.index(min(losses))
    assert best < 4
    kept = sorted(path.name for path in (out / "checkpoints").glob("step-*"))
    assert kept == [f"step-{best:08d}", "step-00000004"]
    said = nasvid("search", out, "--set", "search.checkpoint=best")
    assert "a new record" in said
    largest = opened(out).supernet.net.state_dict()
    weights = load_file(out / "checkpoints" / kept[0] / "weights.safetensors")
    assert all(torch.equal(largest[name], weights[name]) for name in weights)


def test_bench_train_times_each_resolution_under_each_engine(run):
    arguments = ["--engine", "torch", "--engine", "deepspeed:zero=1", "--steps", 2]
    bench = ("bench", "train", run / "recipe.yaml")
    rows = json.loads(in_process_of_its_own(*bench, *arguments, "--json"))["rows"]
    assert [(row["engine"], row["resolution"]) for row in rows] == [
        (engine, side) for engine in ("torch", "deepspeed zero 1") for side in (16, 32)
    ]
    for row in rows:
        assert 0 < row["seconds"] < 60
        assert row["flops"] > 1e6
        assert row["memory"] > 1e8
        assert row["videos_per_second"] == row["clips"] / row["seconds"]
    assert "videos/s" in nasvid(*bench, "--steps", 1)


def test_sampling_and_exporting_elsewhere_write_nothing_into_the_run(run, everything, tmp_path):
    """Which may be read-only; the caption has no embedding there yet."""
    before = everything(run)
    out = tmp_path / "a.mp4"
    nasvid("sample", run, "--subnet", "smallest", "--prompt", "never said before", "--out", out)
    nasvid("export", run, "smallest", "--out", tmp_path)
    assert out.exists()
    assert everything(run) == before


def test_a_run_is_sampled_after_it_was_moved(run, tmp_path):
    moved = tmp_path / "moved"
    shutil.copytree(run.parent, moved)
    nasvid("report", moved / run.name)
    out = tmp_path / "a.mp4"
    nasvid("sample", moved / run.name, "--subnet", "smallest", "--prompt", PROMPT, "--out", out)
    assert out.exists()


def test_an_evaluator_without_a_number_is_told_and_alone_ends_a_search(run, tmp_path):
    (tmp_path / "mine.py").write_text(
        "from nasvid import Evaluator, Metric, register\n"
        "@register('evaluators', 'never')\n"
        "class Never(Evaluator):\n"
        "    'Returns no number.'\n"
        "    metrics = (Metric('never', '', per_resolution=False),)\n"
        "    def evaluate(self, architectures):\n"
        "        return [{'never': float('nan')} for _ in architectures]\n"
    )
    run = shutil.copytree(run, tmp_path / "run")
    plugin = ["--trust-plugins", "--set", f"plugins=[{tmp_path}/mine.py]"]
    front = [*plugin, "--set", "front.evaluators=[{name: never}]"]
    assert "evaluate: not a finite number for" in nasvid("search", run, *front)
    alone = ["--set", "search.evaluators=[{name: never}]", "--set", "search.objectives=[never]"]
    done = CliRunner().invoke(
        main, [*map(str, ["search", run, *plugin, *alone]), "--set", "search.constraints=[]"]
    )
    assert done.exit_code == 2
    assert "has finite metrics (not finite: never)" in done.stderr
