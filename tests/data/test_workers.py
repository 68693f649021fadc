"""Loader processes that die, that a machine hardly has room for, or that cannot be started."""

import os
import resource
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch
from torch.utils.data import Dataset
from torch.utils.data.dataloader import _MultiProcessingDataLoaderIter

from nasvid.data.errors import DataError
from nasvid.data.workers import FILES, run_workers

pytestmark = pytest.mark.slow

SIZE = 1 << 23
"""Bytes of a value; three ahead of each of four processes are 96 MB."""


@dataclass(frozen=True)
class Made:
    """What a process makes: as a batch, tensors among other things."""

    number: int
    video: torch.Tensor
    mask: tuple[torch.Tensor, ...]


class Making(Dataset):
    """Makes values of some size; a process that makes `fatal` kills itself, up to `times` times."""

    def __init__(
        self, size: int = 1000, fatal: int | None = None, marks: Path | None = None
    ) -> None:
        self.size, self.fatal, self.marks = size, fatal, marks

    def __getitem__(self, number: int) -> Made:
        if number == self.fatal and self.marks is not None and any(self.marks.iterdir()):
            next(self.marks.iterdir()).unlink()
            time.sleep(0.3)  # others hand over what they have
            os.kill(os.getpid(), signal.SIGKILL)
        video = torch.full((self.size,), number, dtype=torch.uint8)
        return Made(number, video, (video[:10] > 9,))


def notice_soon() -> None:
    """Look for dead processes every 0.3 seconds, which torch does every 5."""
    _MultiProcessingDataLoaderIter._try_get_data.__defaults__ = (0.3,)


@pytest.fixture(autouse=True)
def soon(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_MultiProcessingDataLoaderIter._try_get_data, "__defaults__", (0.3,))


def assert_all(found: list[Made], count: int, size: int = 1000) -> None:
    alone = Making(size)
    assert [made.number for made in found] == list(range(count))
    for made in found:
        expected = alone[made.number]
        assert torch.equal(made.video, expected.video)
        assert torch.equal(made.mask[0], expected.mask[0])


def started() -> list[int]:
    return [int(pid) for pid in Path(f"/proc/self/task/{os.getpid()}/children").read_text().split()]


def deaths(folder: Path, times: int) -> Path:
    for number in range(times):
        (folder / str(number)).touch()
    return folder


@pytest.mark.parametrize("workers", [1, 3])
def test_a_killed_process_is_replaced_and_nothing_is_lost(
    tmp_path, workers, capsys, recwarn, children
):
    dataset = Making(fatal=7, marks=deaths(tmp_path, 1))
    assert_all(list(run_workers(dataset, range(20), workers)), 20)
    assert not [each for each in recwarn if "worker processes" in str(each.message)]
    said = capsys.readouterr().err
    assert "A loader process died" in said
    assert "Starting again from the same clips" in said
    assert children() == []


def test_a_process_that_dies_at_the_same_place_ends_the_run(tmp_path, children):
    found: list[Made] = []
    results = run_workers(Making(fatal=7, marks=deaths(tmp_path, 9)), range(20), 1)
    with pytest.raises(DataError, match=r"often because memory ran out.*fewer data\.workers"):
        found.extend(results)
    assert_all(found, 7)
    assert children() == []


class Unsendable(Making):
    def __getitem__(self, number: int) -> object:
        return super().__getitem__(number) if number < 3 else lambda: number


def test_what_cannot_be_handed_over_is_an_error_and_no_hang(children):
    results = run_workers(Unsendable(), range(9), 1)
    with pytest.raises(Exception, match="pickle"):
        list(results)
    assert children() == []


def test_with_few_files_values_are_copied():
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (FILES - 1, hard))
    try:
        assert_all(list(run_workers(Making(), range(60), 1)), 60)
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


HERE = f"""
import sys
sys.path.insert(0, {str(Path(__file__).parent)!r})
from test_workers import *
notice_soon()
"""


def python(code: str, *before: str) -> subprocess.CompletedProcess:
    command = [*before, sys.executable, "-c", HERE + code]
    return subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)


def test_too_few_files_to_start_is_one_error_and_an_end():
    done = python(
        """
number = len(os.listdir("/proc/self/fd")) + 6
resource.setrlimit(resource.RLIMIT_NOFILE, (number, number))
try:
    list(run_workers(Making(), range(9), 4))
except DataError as error:
    print(error)
    print(started())
"""
    )
    assert done.returncode == 0, done.stderr
    error, left = done.stdout.splitlines()
    assert error.startswith("4 loader processes cannot be started: Too many open files; ")
    assert "ulimit -n 1024, or lower data.workers" in error
    assert left == "[]"
    assert "Traceback" not in done.stderr


@pytest.fixture(scope="module")
def small_shm() -> tuple[str, ...]:
    """Words before a command that give it 64 MB of shared memory, as Docker does."""
    mount = "mount -t tmpfs -o size=64m tmpfs /dev/shm"
    words = ("unshare", "--map-root-user", "--mount", "sh", "-c", f'{mount} && exec "$@"', "sh")
    if shutil.which("unshare") is None or subprocess.run([*words, "true"], check=False).returncode:
        pytest.skip("this machine does not allow mounts of one's own")
    return words


def test_64_mb_of_shared_memory_are_enough_and_no_hang_if_others_fill_them(small_shm):
    """A process that fails to hand over, or is killed for it, is replaced by one that copies."""
    code = """
assert_all(list(run_workers(Making(SIZE), range(24), 4)), 24, SIZE)
print("enough", file=sys.stderr, flush=True)
from nasvid.data import workers
workers._is_scarce = lambda value: False
assert_all(list(run_workers(Making(SIZE), range(24), 4)), 24, SIZE)
"""
    done = python(code, *small_shm)
    assert done.returncode == 0, done.stderr
    assert done.stdout == ""
    enough, _, filled = done.stderr.partition("enough\n")
    assert "Traceback" not in enough
    assert "A loader process died" not in enough
    assert "A loader process died" in filled


def test_the_end_of_the_parent_is_asked_for_once(small_shm):
    """With processes that wait for it, in the middle of an iteration."""
    code = """
results = run_workers(Making(SIZE), range(1 << 20), 3)
next(results)
print("up", flush=True)
time.sleep(100)
"""
    with subprocess.Popen(
        [*small_shm, sys.executable, "-c", HERE + code], stdout=subprocess.PIPE, text=True
    ) as parent:
        assert parent.stdout is not None
        assert parent.stdout.readline() == "up\n"
        parent.terminate()
        assert parent.wait(20) == -signal.SIGTERM
