"""The disk fills up while each kind of file of a run is written.

Each time it is one line, what was there stays, and the same command makes the same once there is
room again. The disk is a real one; it is filled when the file is opened.
"""

import fnmatch
import os
import re
import shutil
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from nasvid.host.files import remove
from nasvid.host.lock import LOCK

pytestmark = pytest.mark.slow
FILLER = "filler"
PLACES = {
    "run/.recipe.yaml.*": (),
    "run/.environment.json.*": (),
    "data/.train.json.*": ("data",),
    "run/.vae.*/*.safetensors": ("vae", "latents"),
    "latents/32/val/.000000.tar.*": ("latents/32/val", "latents/complete.json"),
    "checkpoints/.step-00000002/weights.safetensors": ("checkpoints",),
    "search/record.jsonl": ("search/record.jsonl",),
    "search/.front.json.*": ("search/front.json",),
    "subnets/.*/unet/*.safetensors": ("subnets",),
    "finetune/checkpoints/*/.step-00000002/weights.safetensors": ("finetune",),
    "finetune/.finetuned.json.*": ("finetune/finetuned.json",),
    "samples/*/.32-0.mp4.*": ("samples",),
    "run/.report.html.*": (),
}
"""Files as they are opened to be written, and what is removed of a finished run before."""
SAME = ("search/front.json", "checkpoints/*/*.safetensors", "*subnets/*/*/*s", "samples/*/*.mp4")

Action = Callable[[Path], None]
_armed: list[tuple[str, Path, Action]] = []


def fill(disk: Path) -> None:
    """Write until nothing more fits."""
    with (disk / FILLER).open("ab", buffering=0) as file:
        for size in (1 << 20, 4096):
            while shutil.disk_usage(disk).free >= size:
                file.write(bytes(size))


def free(disk: Path) -> None:
    (disk / FILLER).unlink()


def _look(event: str, arguments: tuple) -> None:
    if event != "open" or not _armed or isinstance(arguments[0], int):
        return
    pattern, disk, act = _armed[0]
    writes = arguments[2] & (os.O_WRONLY | os.O_RDWR)
    if writes and fnmatch.fnmatchcase(os.fsdecode(arguments[0]), f"*/{pattern}"):
        del _armed[0]
        act(disk)


@pytest.fixture(scope="module")
def when() -> Callable[..., None]:
    """`when(disk, {pattern: fill})`: act when such a file is opened to be written, in turn."""
    sys.addaudithook(_look)  # nothing removes it

    def arm(disk: Path, actions: dict[str, Action]) -> None:
        _armed[:] = [(pattern, disk, act) for pattern, act in actions.items()]

    return arm


def content(run: Path) -> dict[str, bytes]:
    return {
        str(path.relative_to(run)): path.read_bytes()
        for pattern in SAME
        for path in run.glob(pattern)
    }


@pytest.fixture
def on_disk(finished, mounted, monkeypatch) -> Path:
    """The finished run on a small disk, in the working directory."""
    disk = mounted("size=24m")
    shutil.copytree(finished / "run", disk / "run")
    monkeypatch.chdir(disk.parent)
    return disk


@pytest.mark.parametrize("place", PLACES)
def test_it_is_one_line_and_the_same_command_resumes(
    on_disk, finished, nasvid, when, place, everything
):
    run = on_disk / "run"
    for pattern in PLACES[place]:
        for path in list(run.glob(pattern)):
            remove(path)
    before = everything(run)
    when(on_disk, {place: fill})
    done = nasvid("run", finished / "recipe.yaml", "--out", run)
    assert not _armed, "the file was never written"
    assert done.exit_code == 2, done.output
    assert done.stderr.startswith(f"error: {on_disk}")
    assert "cannot be written: No space left on device" in done.stderr
    assert done.stderr.count("\n") == 1
    now = everything(run)
    assert all(now[path] == before[path] for path in before if path.name.endswith("s"))
    assert [path for path in run.rglob(".*") if path.name not in (LOCK, ".owner.json")] == []
    free(on_disk)
    done = nasvid("run", finished / "recipe.yaml", "--out", run)
    assert done.exit_code == 0, done.output
    assert content(run) == content(finished / "run")


def test_training_goes_on_after_a_checkpoint_and_events_that_could_not_be_written(
    on_disk, finished, nasvid, when
):
    run = on_disk / "run"
    for name in ("checkpoints", "events.jsonl"):
        remove(run / name)
    when(on_disk, {"tensorboard/*": fill, "checkpoints/.step-00000002/weights.*": free})
    recipe, more = finished / "recipe.yaml", ("--set", "training.tensorboard=true")
    done = nasvid("run", recipe, "--out", run, *more)
    assert done.exit_code == 0, done.output
    events, failed = (line for line in done.stdout.splitlines() if "cannot be written" in line)
    assert "TensorBoard will not show these steps" in events
    assert "step-00000001 cannot be written" in failed
    assert failed.endswith("training goes on to the next checkpoint")
    assert re.search(r"0 B free, and about [\d.]+ MB are needed", failed)
    expected = content(finished / "run")
    kept = {name: content for name, content in expected.items() if "step-00000001" not in name}
    assert content(run) == kept
