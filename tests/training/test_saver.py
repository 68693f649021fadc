"""Checkpoints written while training goes on: whole or absent, of the state when they began."""

import dataclasses
import errno
import os
import signal
import threading
import time
from collections.abc import Callable, Generator, Iterable, Iterator
from pathlib import Path

import pytest
import torch

from nasvid.data.clips import Clips
from nasvid.data.loader import Batch, BatchRequest
from nasvid.data.samples import UNREACHABLE, Skip
from nasvid.data.shards import ShardIndex
from nasvid.distributed.ranks import ALONE, Ranks, joined
from nasvid.distributed.signals import stop_requests
from nasvid.errors import Interrupted, UserError
from nasvid.recipe.sections import TrainingSection
from nasvid.testing.toy import ToySpace, toy_context
from nasvid.training import checkpoint, saving
from nasvid.training.checkpoint import Trained
from nasvid.training.events import CheckpointEvent, Event, StepEvent
from nasvid.training.saver import Saver
from nasvid.training.saving import Place, save
from nasvid.training.staging import Staging
from nasvid.training.trainer import Outside, Trainer, train
from tests.training.trainers import trainer_of

Report = Callable[[str], None]


def batch(number: int) -> Batch:
    noise = torch.Generator().manual_seed(number)
    return Batch(
        video=torch.randn(2, 3, 2, 8, 8, generator=noise),
        captions=["a", "b"],
        fps=torch.full((2,), 8.0),
        keys=["a", "b"],
        skipped=(),
        context=(torch.zeros(2, 3, 4), torch.ones(2, 3, dtype=torch.bool)),
    )


def clips(ranks: Ranks = ALONE, ends: int = 100) -> Clips:
    """Clips of noise; none can be read from step `ends` on."""

    def load(requests: Iterable[BatchRequest]) -> Iterator[Batch]:
        for request in requests:
            if request.number == ends:
                raise UserError("The disk of the clips is gone")
            yield share(batch(request.number), ranks)

    return Clips(ShardIndex((), (), (), 0, ""), load)  # pyright: ignore[reportArgumentType]


def share(whole: Batch, ranks: Ranks) -> Batch:
    part = slice(ranks.share(2).start, ranks.share(2).stop)
    assert whole.context is not None
    return Batch(
        video=whole.video[part],
        captions=whole.captions[part],
        fps=whole.fps[part],
        keys=whole.keys[part],
        skipped=(),
        context=(whole.context[0][part], whole.context[1][part]),
    )


def trainer(ranks: Ranks = ALONE, **settings) -> Trainer:
    """A trainer of a toy supernet, eight steps with a checkpoint after every second one."""
    section = {"steps": 8, "checkpoint_every": 2, "learning_rate": 1e-2, **settings}
    context = toy_context(ToySpace.of())
    made = trainer_of(context.supernet, context.objective, TrainingSection.model_validate(section))
    trained = Trained.of(context.supernet.net, made.settings, ranks)
    return dataclasses.replace(made, trained=trained, ranks=ranks)


def outside(log: Callable[[Event], None] = print, report: Report = print, stop=lambda: None):
    return Outside(log, report, stop)


def run(made: Trainer, folder: Path, to: Outside | None = None, ends: int = 100) -> None:
    train(made, clips(made.ranks, ends), folder, to or outside(), max_skipped=0.5)


def run_with(made: Trainer, folder: Path, **changed) -> None:
    """Train, but with some values of the clips of step 4 replaced."""
    good = clips()

    def load(requests: Iterable[BatchRequest]) -> Generator[Batch, None, None]:
        for number, each in enumerate(good.load(requests)):
            yield dataclasses.replace(each, **changed) if number == 4 else each

    train(made, Clips(good.index, load), folder, outside(), max_skipped=0.5)


def files(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def steps(folder: Path) -> list[int]:
    return [int(path.name.removeprefix("step-")) for path in sorted(folder.glob("step-*"))]


class SlowDisk:
    """Takes the first block of a file, and the others when it is told to."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.goes_on = threading.Event()
        self._blocks = saving.aligned
        monkeypatch.setattr(saving, "aligned", self._slowly)

    def _slowly(self, tensors) -> Iterator[bytes | memoryview]:
        first, *others = self._blocks(tensors)
        yield first
        while not self.goes_on.is_set():
            yield b""
            time.sleep(0.001)
        yield from others


@pytest.fixture
def slow(monkeypatch: pytest.MonkeyPatch) -> SlowDisk:
    return SlowDisk(monkeypatch)


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The checkpoints of a training that nothing has disturbed."""
    folder = tmp_path_factory.mktemp("whole")
    run(trainer(keep_checkpoints=9), folder)
    assert steps(folder) == [2, 4, 6, 8]
    return folder


@pytest.mark.parametrize(
    ("skip", "said"),
    [
        (Skip("d", "a.tar", "no video"), "no video, first a.tar; `nasvid data inspect` shows all$"),
        (
            Skip("#1", "a.tar", UNREACHABLE),
            "first a.tar; once .* the same command resumes the run$",
        ),
    ],
)
def test_a_stop_for_unusable_samples_loses_no_step(tmp_path, whole, skip, said):
    with pytest.raises(UserError, match=rf"^1 of 0 samples are unusable.* often \(1\): .*{said}"):
        run_with(trainer(checkpoint_every=3), tmp_path, skipped=(skip,))
    assert steps(tmp_path) == [3, 4]
    run(trainer().resumed(tmp_path / "step-00000004"), tmp_path)
    assert files(tmp_path / "step-00000008") == files(whole / "step-00000008")


def test_a_stop_for_steps_that_are_not_finite_loses_none_before(tmp_path):
    broken = torch.full_like(batch(4).video, float("nan"))
    with pytest.raises(UserError, match="1 steps in a row had a loss or gradient that is not fini"):
        run_with(trainer(max_bad_steps=0), tmp_path, video=broken)
    assert steps(tmp_path) == [4, 5]
    run(trainer().resumed(tmp_path / "step-00000005"), tmp_path)
    assert steps(tmp_path) == [6, 8]


def test_it_holds_the_state_when_it_began_whatever_training_does_since(tmp_path, whole, slow):
    made, events = trainer(), []
    with Saver(Place(tmp_path, ALONE, 2), made.trained, events.append, print) as saver:
        for step in range(4):
            made.step([batch(step)])
            if step == 1:
                saver.begin(made.progress)
            elif step > 1 and saver.ready:  # the folder is made
                saver.proceed()
        assert steps(tmp_path) == []
        threading.Timer(0.05, slow.goes_on.set).start()
        saver.begin(made.progress)  # waits for the one before
        assert steps(tmp_path) == [2]
        saver.finish()
    for step in ("step-00000002", "step-00000004"):
        assert files(tmp_path / step) == files(whole / step)
    assert [event.step for event in events] == [2, 4]
    assert all(0 < event.paused <= event.seconds for event in events)


def test_training_does_not_wait_for_it(tmp_path, whole, slow):
    """The disk takes nothing until three more steps are made, when training asks for the next."""
    log: list[Event] = []

    def note(event: Event) -> None:
        log.append(event)
        if isinstance(event, StepEvent) and event.step == 3:
            slow.goes_on.set()

    run(trainer(keep_checkpoints=9), tmp_path, outside(note))
    assert [each.step for each in log if isinstance(each, CheckpointEvent)] == [2, 4, 6, 8]
    first = next(i for i, each in enumerate(log) if isinstance(each, CheckpointEvent))
    assert [each.step for each in log[:first] if isinstance(each, StepEvent)] == [0, 1, 2, 3]
    for path in whole.glob("step-*"):
        assert files(tmp_path / path.name) == files(path)


def test_a_full_disk_is_said_and_the_next_one_tries_again(mounted, whole):
    disk, said = mounted("size=128k"), []
    filler = disk / "filler"
    filler.write_bytes(bytes(128 * 1024))

    def report(line: str) -> None:
        said.append(line)
        filler.unlink()

    run(trainer(keep_checkpoints=9), disk / "checkpoints", outside(report=report))
    (line,) = said
    assert line.startswith(f"{disk}/checkpoints/step-00000002 cannot be written: No space left")
    assert line.endswith("; training goes on to the next checkpoint")
    assert steps(disk / "checkpoints") == [4, 6, 8]
    assert not [*(disk / "checkpoints").glob(".*")]
    assert files(disk / "checkpoints/step-00000008") == files(whole / "step-00000008")


def test_a_disk_that_fails_is_said_but_ends_training_if_it_is_the_last(tmp_path, monkeypatch):
    def fail(path: Path) -> None:
        raise OSError(errno.EIO, os.strerror(errno.EIO), str(path))

    monkeypatch.setattr(saving, "sync", fail)
    said: list[str] = []
    with pytest.raises(UserError, match=r"step-00000008 cannot be written: Input/output error"):
        run(trainer(), tmp_path, outside(report=said.append))
    assert [line.count("training goes on to the next checkpoint") for line in said] == [1, 1, 1]
    assert not [*tmp_path.iterdir()]


def test_a_signal_saves_after_the_one_that_is_being_written(tmp_path, whole, slow):
    made = trainer(keep_checkpoints=9)

    def stop() -> int | None:
        if made.progress.step < 3:
            return None
        slow.goes_on.set()
        return signal.SIGTERM

    with pytest.raises(Interrupted, match="step 3 of 8 is saved"):
        run(made, tmp_path, outside(stop=stop))
    assert steps(tmp_path) == [2, 3]
    assert files(tmp_path / "step-00000002") == files(whole / "step-00000002")
    run(trainer(keep_checkpoints=9).resumed(tmp_path / "step-00000003"), tmp_path)
    assert files(tmp_path / "step-00000008") == files(whole / "step-00000008")


def test_a_signal_ends_waiting_for_clips(tmp_path):
    good = clips()

    def load(requests: Iterable[BatchRequest]) -> Generator[Batch, None, None]:
        for number, each in enumerate(good.load(requests)):
            if number == 3:
                threading.Timer(0.05, os.kill, (os.getpid(), signal.SIGTERM)).start()
                time.sleep(30)
            yield each

    with stop_requests(quiet=True) as stop, pytest.raises(Interrupted, match="step 3 of 8 is sav"):
        train(trainer(), Clips(good.index, load), tmp_path, outside(stop=stop), max_skipped=0.5)
    assert steps(tmp_path) == [2, 3]


def test_an_error_of_training_leaves_it_whole(tmp_path, whole, slow):
    threading.Timer(0.05, slow.goes_on.set).start()
    with pytest.raises(UserError, match="is gone"):
        run(trainer(), tmp_path, ends=3)
    assert steps(tmp_path) == [2, 3]
    assert files(tmp_path / "step-00000002") == files(whole / "step-00000002")


def train_ranks(folder: Path, newest: Path | None = None, *, killed: bool = False) -> None:
    """Train on the ranks of a launcher, 14 steps with a checkpoint after every fifth.

    killed: the last rank is, while the second checkpoint is written.
    """
    written = folder / ".step-00000010/weights.safetensors"
    with joined() as ranks:
        made = trainer(ranks, steps=14, checkpoint_every=5, keep_checkpoints=9)
        made = made.resumed(newest) if newest else made

        def log(event: Event) -> None:
            if not (killed and isinstance(event, StepEvent) and event.step >= 10):
                return
            until = time.monotonic() + 0.5
            while ranks.rank == ranks.size - 1 and time.monotonic() < until:
                if written.exists():
                    os.kill(os.getpid(), signal.SIGKILL)
                time.sleep(0.001)

        run(made, folder, outside(log))


@pytest.mark.slow
@pytest.mark.parametrize("ranks", [1, 2])
def test_a_kill_while_it_is_written_costs_only_the_steps_since_the_one_before(
    tmp_path, forked, monkeypatch, ranks
):
    folder, first = tmp_path / "killed", tmp_path / "killed/step-00000005"

    def work() -> None:
        disk = SlowDisk(monkeypatch)
        disk.goes_on.set()
        monkeypatch.setattr(saving, "replace_folder", then_slow(disk))
        train_ranks(folder, killed=True)

    statuses, said = forked(ranks, work)
    assert statuses == [1, -signal.SIGKILL][-ranks:], said
    assert ranks == 1 or "RankLost" in said
    assert (folder / ".step-00000010/weights.safetensors").exists()
    assert checkpoint.latest(folder) == (first, [])
    assert forked(ranks, lambda: train_ranks(tmp_path / "whole"))[0] == [0] * ranks
    statuses, said = forked(ranks, lambda: train_ranks(folder, first))
    assert statuses == [0] * ranks, said
    assert steps(folder) == [5, 10, 14]
    assert not [*folder.glob(".*")]
    for path in folder.iterdir():
        assert files(path) == files(tmp_path / "whole" / path.name)


def then_slow(disk: SlowDisk) -> Callable[[Path, Path], None]:
    """Let a disk be slow once it has taken a checkpoint."""
    replace = saving.replace_folder

    def replaced(new: Path, target: Path) -> None:
        replace(new, target)
        disk.goes_on.clear()

    return replaced


def tensors(device: str) -> dict[str, dict[str, torch.Tensor]]:
    torch.manual_seed(0)
    made = {
        "a": {"x": torch.randn(3, 5), "age": torch.tensor(3.0), "none": torch.zeros(0)},
        "b": {"x": torch.arange(7, dtype=torch.int32), "y": torch.randn(4, 6).T.half()},
    }
    return {file: {name: t.to(device) for name, t in of.items()} for file, of in made.items()}


@pytest.mark.parametrize(
    "device",
    [
        "cpu",
        pytest.param(
            "cuda", marks=pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
        ),
    ],
)
def test_copies_are_equal_and_lie_in_the_same_memory_each_time(device):
    staging, given = Staging(torch.device(device)), tensors(device)
    for change in (0, 1):
        for of in given.values():
            for tensor in of.values():
                tensor += change
        copied = staging.copies(given)
        for file, of in given.items():
            for name, tensor in of.items():
                copy = copied[file][name]
                assert torch.equal(copy, tensor.cpu())
                assert (copy.dtype, copy.device.type) == (tensor.dtype, "cpu")
                assert copy.is_contiguous()
                assert copy.data_ptr() % 64 == 0
                assert tensor.numel() == 0 or copy.is_pinned() == (device == "cuda")
        pointers = {copied["a"]["x"].data_ptr()}
        assert {staging.copies(given)["a"]["x"].data_ptr()} == pointers
    staging.close()


def test_what_is_there_already_is_not_written_again(tmp_path, whole):
    made = trainer().resumed(whole / "step-00000008")
    path = save(Place(tmp_path, ALONE, 1), made.trained, made.progress)
    before = path.stat().st_mtime_ns, path.stat().st_ino
    (tmp_path / "step-00000009").mkdir()
    save(Place(tmp_path, ALONE, 1), made.trained, made.progress)
    assert (path.stat().st_mtime_ns, path.stat().st_ino) == before
    assert steps(tmp_path) == [8]
    assert files(path) == files(whole / "step-00000008")
