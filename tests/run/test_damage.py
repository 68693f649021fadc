"""Every file of a finished run, damaged in every way, under every verb that may read it.

What the run can make again is made again, to the same bytes, with a line that says so; what it
cannot is one error. Nothing damaged is taken for good, and there is no traceback.
"""

import hashlib
import json
import random
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from nasvid.host.files import remove
from nasvid.host.lock import LOCK
from nasvid.host.weights import Weights

pytestmark = pytest.mark.slow

NEWEST = "step-00000002"
AGAIN = (
    f"checkpoints/{NEWEST}/*",
    "data/*",
    "environment.json",
    "evaluate/metrics.json",
    "finetune/finetuned.json",
    "finetune/subnets/chosen.json",
    "finetune/subnets/*/*",
    "latents/cache.json",
    "latents/complete.json",
    "latents/*/*/*.tar",
    "samples/*.json",
    "samples/*/*.mp4",
    "search/evaluated_with.json",
    "search/front.json",
    "search/goals.json",
    "search/mean_loss.json",
    "subnets/chosen.json",
    "subnets/*/*",
    "train/space.json",
    "vae/*",
)
"""Made again by the run, which says so."""
UNUSED = (
    "checkpoints/best.json",  # read where search.checkpoint is best
    "checkpoints/step-00000001/*",
    f"finetune/checkpoints/*/{NEWEST}/*",
    "finetune/checkpoints/*/step-00000001/*",
    "finetune/subnets/hashes.json",  # only spares hashing again
    "latents/*/*/*.json",  # read where a cache is incomplete
    "subnets/hashes.json",
    "events.jsonl",
    "report.html",
)
"""Not needed by a finished run, or appended to, or written anew each time."""
RESULTS = ("search/front.json", f"checkpoints/{NEWEST}/weights.safetensors", "subnets/*/*/*s")
"""What must stay, to the byte."""
LOST = ("recipe.yaml", "search/record.jsonl")
"""What only people can restore."""
READ_BY = {
    "report": (
        "data/train.json",
        "environment.json",
        "evaluate/metrics.json",
        "finetune/finetuned.json",
        "recipe.yaml",
        "samples/prompts.json",
        "samples/*/*.mp4",
        "search/front.json",
        "search/goals.json",
        "search/mean_loss.json",
        "search/record.jsonl",
        "train/space.json",
        "vae/quality.json",
    ),
    "extract": ("recipe.yaml", f"checkpoints/{NEWEST}/*", "search/front.json"),
    "export": ("recipe.yaml", f"checkpoints/{NEWEST}/*", "search/record.jsonl"),
    "sample": ("recipe.yaml", f"checkpoints/{NEWEST}/*", "vae/config.json", "vae/*.safetensors"),
    "search": (
        "recipe.yaml",
        f"checkpoints/{NEWEST}/*",
        "latents/cache.json",
        "latents/complete.json",
        "latents/*/val/*.tar",
        "search/record.jsonl",
        "vae/*.safetensors",
    ),
}


def empty(path: Path) -> None:
    path.write_bytes(b"")


def cut(path: Path) -> None:
    content = path.read_bytes()
    path.write_bytes(content[: len(content) * 2 // 3])


def garbage(path: Path) -> None:
    size = path.stat().st_size
    path.write_bytes(random.Random(size).randbytes(max(size, 64)))


def folder(path: Path) -> None:
    path.unlink()
    path.mkdir()


def other_json(path: Path) -> None:
    path.write_bytes(b"7\n")


DAMAGES = (empty, cut, garbage, folder)


def one_of(run: Path, pattern: str) -> Path:
    return min(path for path in run.glob(pattern) if path.is_file())


def content(path: Path) -> bytes | None:
    return path.read_bytes() if path.is_file() else None


def again(damages: tuple[Callable, ...]) -> list[tuple[str, Callable]]:
    """Each pattern with two of the damages, in turn."""
    return [
        (pattern, damages[(number + shift) % len(damages)])
        for number, pattern in enumerate((*AGAIN, *LOST))
        for shift in (0, 2)
    ]


def test_each_file_of_a_run_is_looked_at(finished):
    patterns = (*AGAIN, *UNUSED, *LOST)
    known = {path for pattern in patterns for path in (finished / "run").glob(pattern)}
    for path in (finished / "run").rglob("*"):
        if path.is_file() and path.name != LOCK:
            assert known.intersection((path, *path.parents)), path


@pytest.mark.parametrize(("pattern", "damage"), again(DAMAGES))
def test_a_run_makes_again_what_it_can(run, finished, nasvid, pattern, damage):
    path = one_of(run, pattern)
    damage(path)
    done = nasvid("run", "recipe.yaml", "--out", "run")
    if pattern in LOST and not (path.name == "record.jsonl" and damage in (empty, cut)):
        assert done.exit_code == 2
        assert done.stderr.startswith(f"error: {path}")
        assert done.stderr.count("\n") == 1
        return
    assert done.exit_code == 0, done.output
    made = pattern in AGAIN and path.name != "environment.json"  # which has the run's folder
    for result in (path.relative_to(run), *RESULTS) if made else RESULTS:
        here, there = one_of(run, str(result)), one_of(finished / "run", str(result))
        assert here.read_bytes() == there.read_bytes(), result
    if pattern in AGAIN:
        assert f"{path} is damaged" in done.stdout


@pytest.mark.parametrize("damage", DAMAGES)
def test_what_a_finished_run_does_not_need_may_be_damaged(run, finished, nasvid, damage):
    for pattern in UNUSED:
        damage(one_of(run, pattern))
    done = nasvid("run", "recipe.yaml", "--out", "run")
    assert done.exit_code == 0, done.output
    for result in RESULTS:
        assert content(one_of(run, result)) == content(one_of(finished / "run", result)), result


@pytest.mark.parametrize(
    ("verb", "pattern"), [(verb, pattern) for verb, all_ in READ_BY.items() for pattern in all_]
)
def test_verbs_that_cannot_make_it_again_say_so_in_a_line(run, nasvid, verb, pattern, everything):
    path = one_of(run, pattern)
    id_ = min(each.name for each in (run / "subnets").iterdir() if each.is_dir())
    more = {
        "export": [id_, "--out", "x"],
        "sample": ["--subnet", id_, "--prompt", "a", "--out", "v.mp4"],
    }
    for damage in (garbage, other_json):
        damage(path)
        before = everything(run)
        done = nasvid(verb, "run", *more.get(verb, ()))
        assert done.exit_code == 2, done.output
        assert str(path.parent) in done.stderr
        assert "damaged" in done.stderr or "not a valid evaluation" in done.stderr
        assert done.stderr.count("\n") == 1
        if verb != "search":
            assert everything(run) == before


def test_a_record_that_is_gone_is_made_again_and_said(run, finished, nasvid):
    (run / "search/record.jsonl").unlink()
    done = nasvid("run", "recipe.yaml", "--out", "run")
    assert "record.jsonl is missing; all is evaluated again" in done.stdout
    assert content(run / "search/front.json") == content(finished / "run/search/front.json")


def test_lines_that_a_power_cut_has_left_in_the_log_are_left_out(run, nasvid):
    with (run / "events.jsonl").open("ab") as file:
        file.write(bytes(40) + b"\n")
    done = nasvid("report", "run")
    assert done.exit_code == 0
    assert "events.jsonl: 1 damaged line left out" in done.stdout


def test_the_best_checkpoint_is_checked_before_it_is_searched(run, nasvid):
    best = json.loads((run / "checkpoints/best.json").read_text())["checkpoint"]
    weights = run / "checkpoints" / best / "weights.safetensors"
    if best == NEWEST:
        (run / "checkpoints/best.json").write_text('{"checkpoint": "step-00000001", "loss": 0}')
        weights = run / "checkpoints/step-00000001/weights.safetensors"
    damaged = bytearray(weights.read_bytes())
    damaged[-1] ^= 1
    weights.write_bytes(damaged)
    done = nasvid("search", "run", "--set", "search.checkpoint=best")
    assert done.exit_code == 2
    assert f"{weights} is damaged (its checksum is another)" in done.stderr
    empty(run / "checkpoints/best.json")
    done = nasvid("search", "run", "--set", "search.checkpoint=best")
    assert "best.json is damaged (it is empty); delete it" in done.stderr


def test_what_may_not_be_read_is_not_taken_for_damaged_nor_absent(
    run, nasvid, everything, another_user_of
):
    """Another user's checkpoints, in a folder that this one may write to."""
    before = {path: hashlib.sha256(c).digest() for path, c in everything(run).items()}
    for hidden in (
        run / f"checkpoints/{NEWEST}/weights.safetensors",
        run / f"checkpoints/{NEWEST}/state.json",
        run / f"checkpoints/{NEWEST}",
        run / "checkpoints",
        run / "search/record.jsonl",
        run / "latents/32/train/000000.tar",
        run / "vae/config.json",
        run / "subnets",
    ):
        with another_user_of(run, hidden):
            done = nasvid("run", "recipe.yaml", "--out", "run")
        assert done.exit_code == 2, (hidden, done.output)
        assert "Permission denied" in done.stderr, hidden
        assert done.stderr.count("\n") == 1
        now = {path: hashlib.sha256(c).digest() for path, c in everything(run).items()}
        changed = {path.name for path in before if now.get(path) != before[path]}
        assert changed <= {"events.jsonl", "environment.json"}, hidden


def test_the_description_of_another_space_is_made_again(run, finished, nasvid):
    path = run / "train/space.json"
    described = json.loads(path.read_text())
    described["choices"][0]["name"] = "other"
    path.write_text(json.dumps(described))
    done = nasvid("run", "recipe.yaml", "--out", "run")
    assert done.exit_code == 0, done.output
    assert "space.json describes another space and is made again" in done.stdout
    assert path.read_bytes() == (finished / "run/train/space.json").read_bytes()


def test_a_record_of_other_metrics_is_told_of_in_a_line(run, nasvid):
    path = run / "search/record.jsonl"
    line = json.loads(path.read_text().splitlines()[0])
    line["metrics"]["a\nerror: b"] = 1.0
    path.write_text(json.dumps(line) + "\n")
    done = nasvid("search", "run")
    assert done.exit_code == 2
    assert done.stderr.count("\n") == 1
    assert "was evaluated with other metrics" in done.stderr


def test_a_damaged_note_of_the_best_checkpoint_stops_training_before_its_first_step(run, nasvid):
    remove(run / "checkpoints" / NEWEST)
    (run / "checkpoints/best.json").write_text('{"checkpoint": "../x", "loss": 0}')
    (run / "events.jsonl").write_text("")
    done = nasvid("run", "recipe.yaml", "--out", "run")
    assert done.exit_code == 2
    assert "best.json is damaged ('../x' is not a checkpoint's name); delete it" in done.stderr
    assert '"step"' not in (run / "events.jsonl").read_text()


def test_weights_that_may_not_be_read_are_not_taken_for_absent(
    tmp_path, another_user_of, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    file = tmp_path / "model" / "model.safetensors"
    file.parent.mkdir()
    save_file({"a": torch.zeros(1)}, file)
    weights = Weights((file,), None)
    assert weights.shapes() == {"a": (1,)}
    with (
        another_user_of(file.parent, file),
        pytest.raises(PermissionError, match=r"model\.safetensors"),
    ):
        weights.shapes()
