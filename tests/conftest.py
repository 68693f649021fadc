import os
import random
import socket
import subprocess
import sys
import time
import traceback
from collections.abc import Callable, Iterator
from contextlib import suppress
from functools import cache
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")  # also for the processes that tests start

import pytest
import torch
import torch.distributed as dist
import yaml
from click.testing import CliRunner
from hypothesis import HealthCheck, settings

from nasvid.cli.main import main
from tests.strangers import Stranger

torch.set_num_threads(1)
# How long an example takes says something about the machine alone.
settings.register_profile("nasvid", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("nasvid")

TINY = """\
name: tiny
resolutions:
  16: {batch: 2}
  32: {batch: auto}
data: {frames: 4, context_len: 8}
text: {name: hash, dim: 16}
space:
  name: elastic_unet
  widths: [[8, 16], [16, 32]]
  blocks_per_level: 1
  attention_levels: [1]
  conditioning_width: 32
  head_dim: 8
  group_size: 4
  patch_size: 2
training:
  steps: 2
search:
  strategy:
    name: random
  budget: 8
  objectives: [loss, macs]
front:
  subnets: 2
  prompts: []
"""
"""A very cheap recipe; tests change its text, or sections of it."""


Port = Callable[[], int]


@pytest.fixture(scope="session")
def free_port() -> Port:
    """Find a port for a process that is started later.

    It is below the ports that the system assigns, which could be taken in the meantime.
    """

    def find() -> int:
        while True:
            with suppress(OSError):
                port = random.SystemRandom().randrange(15_000, 32_000)
                with socket.create_server(("127.0.0.1", port)):
                    return port

    return find


@pytest.fixture
def rng(request: pytest.FixtureRequest) -> random.Random:
    """Draw different numbers each time; a failing test prints the seed that repeats them."""
    seed = int(os.environ.get("NASVID_TEST_SEED") or time.time_ns())
    request.node.add_report_section("setup", "seed", f"To repeat it: NASVID_TEST_SEED={seed}")
    return random.Random(seed)


@pytest.fixture(scope="session")
def pipeline(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """Make a small stand-in for a stock pipeline, once; a test that changes it takes a copy."""
    from examples.tiny_pipelines.make import make

    return cache(lambda name: make(name, tmp_path_factory.mktemp("pipelines") / name))


@pytest.fixture(scope="session")
def stranger(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stranger]:
    """Run code where nasvid cannot be imported: `stranger.run(code, folder)`; what it prints."""
    stranger = Stranger(tmp_path_factory.mktemp("stranger"))
    yield stranger
    stranger.end()


@pytest.fixture(scope="session")
def tiny() -> Callable[..., str]:
    """Give the tiny recipe's text with some sections replaced, or removed if None."""

    def text(**sections: object) -> str:
        recipe = yaml.safe_load(TINY) | sections
        kept = {name: section for name, section in recipe.items() if section is not None}
        return yaml.safe_dump(kept, sort_keys=False)

    return text


@pytest.fixture
def write_recipe(tmp_path: Path) -> Callable[..., Path]:
    """Write the tiny recipe with some of its text replaced, and more appended."""

    def write(replaced: dict[str, str] | None = None, more: str = "") -> Path:
        text = TINY
        for old, new in (replaced or {}).items():
            assert text.count(old) == 1, f"{old!r} is not in the recipe just once"
            text = text.replace(old, new)
        path = tmp_path / "recipe.yaml"
        path.write_text(text + more)
        return path

    return write


def files_in(folder: Path) -> dict[Path, bytes]:
    return {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def kept_in(folder: Path) -> dict[Path, bytes]:
    return {p: content for p, content in files_in(folder).items() if not {*p.parts} & LEFT_BEHIND}


LEFT_BEHIND = {"__pycache__", ".lock"}
"""What a command may leave in a folder that it changes nothing of."""


def message_of(*arguments: object) -> str:
    """Run a command that must fail; return its message, without `error: `."""
    before = kept_in(Path.cwd())
    result = CliRunner().invoke(main, [str(argument) for argument in arguments], prog_name="nasvid")
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    assert result.exit_code == 2, result.output
    assert result.stdout == ""
    assert result.stderr.startswith("error: ")
    assert "Traceback" not in result.stderr
    assert kept_in(Path.cwd()) == before
    return result.stderr.removeprefix("error: ").rstrip("\n")


@pytest.fixture
def error_of(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., str]:
    """`error_of("run", "x.yaml")`: run a command that must fail in `tmp_path`; its message."""
    monkeypatch.chdir(tmp_path)
    return message_of


@pytest.fixture
def everything() -> Callable[[Path], dict[Path, bytes]]:
    """The content of each file in a folder."""
    return files_in


@pytest.fixture
def mounted(tmp_path: Path) -> Iterator[Callable[[str], Path]]:
    """Mount a small disk in `tmp_path`: `mounted("size=256k")`; return its folder."""
    if os.geteuid():
        pytest.skip("only root can mount a disk")
    folder = tmp_path / "disk"

    def mount(options: str) -> Path:
        folder.mkdir()
        command = ["mount", "-t", "tmpfs", "-o", options, "tmpfs", str(folder)]
        if subprocess.run(command, check=False, capture_output=True).returncode:
            folder.rmdir()
            pytest.skip("this machine lets nobody mount a disk")
        return folder

    yield mount
    if folder.exists():
        subprocess.run(["umount", "--lazy", str(folder)], check=True)


@pytest.fixture
def forked(free_port: Port, tmp_path: Path) -> Callable[..., tuple[list[int], str]]:
    """Call a function as each of some ranks: `forked(2, work)`; return statuses and the output.

    Ranks are forked, which takes far less time than starting them. A status is an exit code, 1 for
    any error, or minus a signal.
    """

    def call(count: int, work: Callable[[], object]) -> tuple[list[int], str]:
        said = tmp_path / "said"
        said.write_text("")
        port = free_port()
        children = [_fork(rank, count, port, said, work) for rank in range(count)]
        statuses, until = [], time.monotonic() + 120
        for child in children:
            while (found := os.waitpid(child, os.WNOHANG)) == (0, 0):
                assert time.monotonic() < until, said.read_text()
                time.sleep(0.01)
            statuses.append(os.waitstatus_to_exitcode(found[1]))
        return statuses, said.read_text()

    return call


_left: list[object] = []


def _forget_group() -> None:
    """Forget a process group that an engine's test has left; its threads are not in a fork."""
    if dist.is_initialized():
        _left.append(dist.distributed_c10d._world)  # to destroy it would wait for its threads
        _left.append(dist.GroupMember.WORLD)
        dist.distributed_c10d._world = dist.distributed_c10d._World()
        dist.distributed_c10d._world.group_count = 1000  # groups have names of their own
        dist.GroupMember.WORLD = None


def _fork(rank: int, count: int, port: int, said: Path, work: Callable[[], object]) -> int:
    child = os.fork()
    if child:
        return child
    status = 1
    try:
        os.environ |= {"RANK": f"{rank}", "WORLD_SIZE": f"{count}", "LOCAL_RANK": f"{rank}"}
        os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": f"{port}"}
        sys.stdout = sys.stderr = said.open("a", buffering=1)
        torch.set_num_threads(1)
        _forget_group()
        work()
        status = 0
    except Exception:
        traceback.print_exc()
    finally:
        os._exit(status)
