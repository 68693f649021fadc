"""Unusable samples, counted over all ranks; too many stop a run."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence

from nasvid.data.loader import Batch
from nasvid.data.samples import Skip
from nasvid.data.shards import ShardIndex
from nasvid.data.streamed import StreamedShards
from nasvid.errors import UserError
from nasvid.training.events import SkipEvent

GRACE = 10_000
"""Samples of streamed shards from whose number on the limit applies to those met so far."""


class Unusable:
    """The samples of an index that could not be used, each counted once.

    Of streamed shards, samples are known only as they are met: their share is that of those met
    since training began or was resumed, or of `GRACE` as long as these are fewer.
    """

    def __init__(self, index: ShardIndex | StreamedShards, limit: float) -> None:
        self._keys = {(skip.shard, skip.key) for skip in index.skipped}
        self._unknown = index.unusable - len(self._keys)
        self._total = index.samples + index.unusable
        self._is_known, self._met = isinstance(index, ShardIndex), 0
        self._limit = limit

    def meet(self, samples: int) -> None:
        """Note that more samples have been read, by all ranks together."""
        self._met += samples

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
        total = self._total if self._is_known else min(self._total, max(self._met, GRACE))
        if unusable > self._limit * total:
            raise UserError(
                f"{unusable} of {total} samples are unusable, more than "
                f"data.max_skipped ({self._limit:g}) allows; `nasvid data inspect` shows why"
            )
