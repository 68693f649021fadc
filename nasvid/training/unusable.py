"""Unusable samples, counted over all ranks; too many stop a run."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence

from nasvid.data.loader import Batch
from nasvid.data.samples import Skip
from nasvid.data.shards import ShardIndex
from nasvid.errors import UserError
from nasvid.training.events import SkipEvent


class Unusable:
    """The samples of an index that could not be used, each counted once."""

    def __init__(self, index: ShardIndex, limit: float) -> None:
        self._keys = {(skip.shard, skip.key) for skip in index.skipped}
        self._unknown = index.unusable - len(self._keys)
        self._total = len(index.clips) + index.unusable
        self._limit = limit

    def new(self, batch: Batch) -> list[Skip]:
        """Return a batch's skipped samples that have not been counted yet."""
        return [skip for skip in batch.skipped if (skip.shard, skip.key) not in self._keys]

    def add(self, skips: Iterable[Sequence[Skip]], log: Callable[[SkipEvent], None]) -> None:
        """Count and log the samples that each rank has skipped.

        Raises:
            UserError: there are more than the recipe allows.
        """
        for skip in (skip for found in skips for skip in found):
            if (skip.shard, skip.key) not in self._keys:
                self._keys.add((skip.shard, skip.key))
                log(SkipEvent(skip.key, skip.shard, skip.reason))
        unusable = len(self._keys) + self._unknown
        if unusable > self._limit * self._total:
            raise UserError(
                f"{unusable} of {self._total} samples are unusable, more than "
                f"data.max_skipped ({self._limit:g}) allows; `nasvid data inspect` shows why"
            )
