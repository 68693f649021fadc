"""Where the samples of batches come from: what the loader asks of it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol

import numpy as np

from nasvid.data.samples import Content, Skip
from nasvid.shapes import Resolution


class Source(Protocol):
    """Chooses and reads samples, in one process; where one is, only the source itself knows."""

    def samples(self, whole: range, share: range) -> Sequence[int]:
        """Return the numbers of the samples of a share of a batch, before they are read.

        whole: those of the batch. share: part of it.
        """
        ...

    def first(self, sample: int, resolution: Resolution) -> Any:
        """Return where a sample is.

        Raises:
            DataError: there is none for this resolution.
        """
        ...

    def another(
        self, sample: int, resolution: Resolution, attempt: int, rng: np.random.Generator
    ) -> Any:
        """Return where a random replacement is. attempt: how many have failed."""
        ...

    def read(self, place: Any) -> Content:
        """Read a sample.

        Raises:
            ClipError: it cannot be used. DataError: the system cannot read it.
        """
        ...

    def key(self, place: Any) -> str:
        """Return a sample's key, or what it is called without."""
        ...

    def shard(self, place: Any) -> str:
        """Return the shard that a sample is in."""
        ...

    def skip(self, place: Any, reason: str) -> Skip:
        """Return the record of a sample that cannot be used."""
        ...

    def close(self) -> None:
        """Let go of what is open."""
        ...
