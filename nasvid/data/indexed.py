"""The samples of batches from shards whose every clip is known, in any order."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache

import numpy as np

from nasvid.data.errors import DataError
from nasvid.data.pools import pool
from nasvid.data.samples import ClipRef, Content, Skip, read_video
from nasvid.data.shards import ShardIndex
from nasvid.host.streams import stream
from nasvid.shapes import Resolution


class IndexedClips:
    """Chooses and reads the clips of an index: each epoch of a resolution is a permutation of all.

    frames: of a clip at a resolution without its own.
    """

    def __init__(self, index: ShardIndex, frames: int, seed: int) -> None:
        self._index, self._frames, self._seed = index, frames, seed
        self._pools: dict[Resolution, Sequence[int]] = {}

    def samples(self, whole: range, share: range) -> Sequence[int]:
        """Return a share of a batch's samples."""
        del whole
        return share

    def first(self, sample: int, resolution: Resolution) -> ClipRef:
        """Return the clip that a sample is.

        Raises:
            DataError: there is none for this resolution.
        """
        clips = self._pool(resolution)
        epoch, place = divmod(sample, len(clips))
        return self._index.clips[clips[int(permutation(self._seed, epoch, len(clips))[place])]]

    def another(
        self, sample: int, resolution: Resolution, attempt: int, rng: np.random.Generator
    ) -> ClipRef:
        """Return any clip that the resolution takes."""
        del sample, attempt
        clips = self._pool(resolution)
        return self._index.clips[clips[int(rng.integers(len(clips)))]]

    def read(self, place: ClipRef) -> Content:
        """Read a clip.

        Raises:
            ClipError: its shard is missing or shorter than it was. DataError: as `read_video`.
        """
        return Content(read_video(place, self._index.cache), place.caption)

    def key(self, place: ClipRef) -> str:
        """Return a clip's key."""
        return place.key

    def shard(self, place: ClipRef) -> str:
        """Return the shard that a clip is in."""
        return place.shard

    def skip(self, place: ClipRef, reason: str) -> Skip:
        """Return the record of a clip that cannot be used."""
        return Skip(place.key, place.shard, reason)

    def close(self) -> None:
        """Do nothing: shards are open only while they are read."""

    def _pool(self, resolution: Resolution) -> Sequence[int]:
        if resolution not in self._pools:
            self._pools[resolution] = pool(self._index, resolution, self._frames)
        if not self._pools[resolution]:
            raise DataError(f"No clip in {', '.join(self._index.shards)} is for {resolution.label}")
        return self._pools[resolution]


@lru_cache(maxsize=2)
def permutation(seed: int, epoch: int, size: int) -> np.ndarray:
    """Return the order of the clips in an epoch; two are cached, since a batch may span both."""
    return stream(seed, "epoch", epoch, size).permutation(size)
