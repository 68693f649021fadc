import random
import socket
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import pytest
import torch
from click.testing import CliRunner

from nasvid.cli.main import main

torch.set_num_threads(1)

TINY = """\
name: tiny
resolutions:
  16: {batch: 2}
  32: {batch: auto}
data: {frames: 4, context_len: 4}
text: {name: hash, dim: 16}
space:
  name: elastic_unet
  widths: [[16], [16, 32]]
  blocks_per_level: 1
  attention_levels: [1]
  conditioning_width: 32
  head_dim: 16
  group_size: 4
training:
  steps: 2
search:
  strategy:
    name: random
  budget: 8
  objectives: [loss, macs]
front:
  subnets: 2
"""
"""A recipe that costs nothing; tests change its text."""


Port = Callable[[], int]


@pytest.fixture(scope="session")
def free_port() -> Port:
    """Find a port for what is started in a while.

    It is below those that the system hands out, for it would give this one away in between.
    """

    def find() -> int:
        while True:
            with suppress(OSError):
                port = random.SystemRandom().randrange(15_000, 32_000)
                with socket.create_server(("127.0.0.1", port)):
                    return port

    return find


@pytest.fixture(scope="session")
def tiny_recipe() -> str:
    return TINY


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


def message_of(*arguments: object) -> str:
    """Run a verb that must fail; return its message, without `error: `."""
    before = files_in(Path.cwd())
    result = CliRunner().invoke(main, [str(argument) for argument in arguments], prog_name="nasvid")
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    assert result.exit_code == 2, result.output
    assert result.stdout == ""
    assert result.stderr.startswith("error: ")
    assert "Traceback" not in result.stderr
    after = {p: b for p, b in files_in(Path.cwd()).items() if "__pycache__" not in p.parts}
    assert after == before
    return result.stderr.removeprefix("error: ").rstrip("\n")


@pytest.fixture
def error_of() -> Callable[..., str]:
    """`error_of("run", "x.yaml")`: run a verb that must fail; return its message."""
    return message_of


@pytest.fixture
def everything() -> Callable[[Path], dict[Path, bytes]]:
    """The content of each file in a folder."""
    return files_in
