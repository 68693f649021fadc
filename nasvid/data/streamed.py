"""Shards that are streamed: what is known of them, and the samples that batches are made of."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from nasvid.data.ahead import Shelf
from nasvid.data.cache import ShardCache
from nasvid.data.order import STREAMS, Order, Place, Window
from nasvid.data.samples import Content, Skip
from nasvid.data.urls import base_name
from nasvid.data.wids import ShardCount
from nasvid.host.words import bytes_text, counted
from nasvid.recipe.paths import is_url
from nasvid.shapes import Resolution

OWN_TRIES = 8
"""Replacements of a sample that come from its own window; later ones come from those of all
streams, which may have to be fetched for that."""


@dataclass(frozen=True, eq=False)
class StreamedShards:
    """The shards of a split that is streamed; their samples are known only as they are read.

    shards: paths and addresses. counts: samples of each, int64. window: shards per window. lost:
    how many shards could not be reached when their samples were counted. damaged: why others have
    fewer samples than they should, by shard. two_windows: about how many bytes two windows of each
    stream take in the cache, as far as the sizes of shards are known.
    """

    shards: Sequence[str]
    counts: np.ndarray
    window: int
    cache: ShardCache
    lost: int = 0
    damaged: Mapping[str, str] = field(default_factory=dict)
    two_windows: int = 0

    @classmethod
    def of(cls, counts: Sequence[ShardCount], window: int, cache: ShardCache) -> StreamedShards:
        """Return shards whose samples were counted."""
        samples = np.array([count.samples for count in counts], dtype=np.int64)
        fetched = [count.bytes for count in counts if count.bytes and is_url(count.shard)]
        held = min(2 * window * min(STREAMS, len(counts)), len(fetched))
        return cls(
            shards=tuple(count.shard for count in counts),
            counts=samples,
            window=window,
            cache=cache,
            lost=sum(not count.reached for count in counts),
            damaged={each.shard: each.fault for each in counts if each.reached and each.fault},
            two_windows=held * sum(fetched) // max(len(fetched), 1),
        )

    @property
    def samples(self) -> int:
        """Number of samples of all shards, usable or not."""
        return int(self.counts.sum())

    def describe(self) -> str:
        """Return what is known before samples are read: `1000 samples in 10 shards, streamed`."""
        known = f"{counted(self.samples, 'sample')} in {counted(len(self.shards), 'shard')}"
        said = [f"{known}, streamed"]
        if self.lost:
            said.append(f"{self.lost} cannot be reached and are left out")
        for shard, fault in list(self.damaged.items())[:1]:
            said.append(f"{len(self.damaged)} of them damaged, first {shard} ({fault})")
        said.append(
            "which samples are usable, and whether some are validation clips too, is not known "
            "beforehand"
        )
        if self.cache.limit is not None and self.cache.limit < self.two_windows:
            said.append(
                f"two windows of each stream take about {bytes_text(self.two_windows)}, more than "
                f"data.cache_limit ({bytes_text(self.cache.limit)}): training may stop for want of "
                "room"
            )
        return "; ".join(said)

    @property
    def skipped(self) -> tuple[Skip, ...]:
        """What is known not to be usable before samples are read: the rest of damaged shards."""
        return tuple(Skip("", shard, fault) for shard, fault in self.damaged.items())

    @property
    def unusable(self) -> int:
        """How many samples cannot be read: those of lost shards, which count as the others have,
        and one for the rest of each damaged shard."""
        reached = len(self.shards) - self.lost
        lost = round(self.lost * self.samples / reached) if reached else self.lost
        return lost + len(self.damaged)

    @property
    def fingerprint(self) -> str:
        """sha256 of the shards' names and counts."""
        digest = hashlib.sha256()
        for shard, count in zip(self.shards, self.counts.tolist(), strict=True):
            name = base_name(shard).encode("utf-8", "surrogateescape")
            digest.update(name + f"\0{count}\0".encode())
        return digest.hexdigest()


class StreamedClips:
    """Chooses and reads the samples of batches from streamed shards, in one process."""

    def __init__(self, data: StreamedShards, seed: int) -> None:
        self._data = data
        self._order = Order(data.counts, seed, data.window)
        self._shelf = Shelf(data.shards, data.counts, data.cache)
        self._streams: set[int] = set()

    def samples(self, whole: range, share: range) -> Sequence[int]:
        """Return the numbers of the samples of a share of a batch; their shards are made ready.

        whole: those of the batch. share: as many of them as the share has, at its place.
        """
        first = share.start - whole.start
        chosen = self._order.by_stream(whole.start, len(whole))[first : first + len(share)]
        self._turn_to(chosen, whole)
        return chosen

    def _turn_to(self, chosen: Sequence[int], whole: range) -> None:
        order, last = self._order, {}
        now = dict.fromkeys(map(order.window_of, chosen))
        for sample in chosen:
            last[order.stream_of(sample)] = sample
        then = [
            order.after(order.window_of(each)) for each in sorted(last.values(), key=order.left)
        ]
        everywhere = order.beside(whole[-1]) if whole else []
        self._streams |= last.keys()
        others = [each for each in everywhere if each.stream in self._streams - last.keys()]
        now |= dict.fromkeys(others)  # a small batch does not have samples of each stream
        then += map(order.after, others)
        self._shelf.want(_shards_of(now), _shards_of(then), _shards_of(everywhere))

    def first(self, sample: int, resolution: Resolution) -> Place:
        """Return where a sample is. resolution: makes no difference."""
        del resolution
        return self._order.place(sample)

    def another(
        self, sample: int, resolution: Resolution, attempt: int, rng: np.random.Generator
    ) -> Place:
        """Return a random replacement of a sample, from shards that are read at its time.

        attempt: how many of its replacements have failed.
        """
        del resolution
        window = self._order.window_of(sample)
        if attempt >= OWN_TRIES:
            beside = self._order.beside(sample)
            window = beside[int(rng.integers(len(beside)))]
        return self._order.another(window, rng)

    def read(self, place: Place) -> Content:
        """Read a sample.

        Raises:
            ClipError: it cannot be used. DataError: the system cannot read it.
        """
        return self._shelf.get(place.shard).read(place.number)

    def shard(self, place: Place) -> str:
        """Return the shard that a sample is in."""
        return self._data.shards[place.shard]

    def skip(self, place: Place, reason: str) -> Skip:
        """Return the record of a sample that cannot be used."""
        return Skip(self.key(place), self.shard(place), reason)

    def key(self, place: Place) -> str:
        """Return the key of a sample; if its shard is not there, its number in it."""
        return self._shelf.key(place.shard, place.number)

    def close(self) -> None:
        """Let go of the shards."""
        self._shelf.close()


def _shards_of(windows: Iterable[Window]) -> list[int]:
    return [shard for window in windows for shard in window.shards]
