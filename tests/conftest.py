from collections.abc import Callable
from pathlib import Path

import pytest
import torch

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
