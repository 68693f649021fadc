"""A check that code leaves the process's global random generators alone."""

from __future__ import annotations

import random
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import torch


@contextmanager
def untouched_randomness(seed: int = 0) -> Iterator[None]:
    """Seed Python's, numpy's and torch's generators; at the end assert that nothing drew from them.

    Two passes with different seeds and the same result also prove that nothing read their state.
    """
    _seed(seed)
    expected = _draw()
    _seed(seed)
    yield
    assert _draw() == expected, "something drew from, or seeded, a global random generator"


def _seed(seed: int) -> None:
    random.seed(seed)
    np.random.seed(seed)
    torch.manual_seed(seed)


def _draw() -> tuple[float, float, float]:
    return random.random(), np.random.random(), torch.rand(()).item()
