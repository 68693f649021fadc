"""Unusable samples, counted over all ranks: a run stops when there are too many."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Sequence

from nasvid.data.loader import Batch
from nasvid.data.samples import Skip, advice
from nasvid.data.shards import ShardIndex
from nasvid.data.streamed import StreamedShards
from nasvid.training.events import SkipEvent

GRACE = 10_000
"""Samples of streamed shards from whose number on the limit applies to those met so far."""


class Unusable:
    """The samples of an index that could not be used, each counted once.

    Of streamed shards, samples are known only as they are met: their share is that of those met
    since training began or was resumed, or of `GRACE` as long as these are fewer.
    """

    def __init__(self, index: ShardIndex | StreamedShards, limit: float) -> None:
        self._keys: set[tuple[str, str]] = set()
        self._reasons: Counter[str] = Counter()
        self._first: dict[str, str] = {}
        for skip in index.skipped:
            self._count(skip)
        self._unknown = index.unusable - len(self._keys)
        self._total = index.samples + index.unusable
        self._is_known, self._met = isinstance(index, ShardIndex), 0
        self._limit = limit

    def _count(self, skip: Skip) -> None:
        self._keys.add((skip.shard, skip.key))
        self._reasons[skip.reason] += 1
        self._first.setdefault(skip.reason, skip.shard)

    def meet(self, samples: int) -> None:
        """Note that more samples have been read, by all ranks together."""
        self._met += samples

    def new(self, batch: Batch) -> list[Skip]:
        """Return a batch's skipped samples that have not been counted yet."""
        return [skip for skip in batch.skipped if (skip.shard, skip.key) not in self._keys]

    def add(self, skips: Iterable[Sequence[Skip]], log: Callable[[SkipEvent], None]) -> None:
        """Count and log the samples that each rank has skipped."""
        for skip in (skip for found in skips for skip in found):
            if (skip.shard, skip.key) not in self._keys:
                self._count(skip)
                log(SkipEvent(skip.key, skip.shard, skip.reason))

    @property
    def excess(self) -> str:
        """What to tell people if there are more than the recipe allows; otherwise nothing."""
        unusable = len(self._keys) + self._unknown
        total = self._total if self._is_known else min(self._total, max(self._met, GRACE))
        if unusable <= self._limit * total:
            return ""
        said = (
            f"{unusable} of {total} samples are unusable, more than data.max_skipped "
            f"({self._limit:g}) allows"
        )
        for reason, count in self._reasons.most_common(1):
            said += f"; most often ({count}): {reason}, first {self._first[reason]}"
            if then := advice(reason):
                return said + then
        return f"{said}; `nasvid data inspect` shows all"
