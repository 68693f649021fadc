import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.strategies.nni.experiments import managers


@pytest.fixture
def nothing_left(tmp_path: Path) -> Iterator[None]:
    """Check that no process of an experiment outlives the test."""
    yield
    until = time.monotonic() + 20
    while managers(tmp_path) and time.monotonic() < until:
        time.sleep(0.1)
    assert managers(tmp_path) == []
