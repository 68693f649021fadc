"""Finds validation clips that are in the training data too, on which metrics show memorisation."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from itertools import islice
from pathlib import Path

from nasvid.data.samples import ClipRef
from nasvid.data.shards import ShardIndex
from nasvid.data.split import source_of

COMPARED = 20_000
"""Most pairs of videos of the same size whose bytes are compared."""
SAMPLED = 4096
"""Bytes compared at the start, middle and end of two videos."""


def also_in_training(train: ShardIndex, val: ShardIndex) -> list[ClipRef]:
    """Return the validation clips whose source videos are in the training data.

    These are the same videos, under any name, or other parts of them according to their names
    (`source_of`). Remote shards that are not on this machine are compared only by name.
    """
    places = {(clip.shard, clip.video) for clip in train.clips}
    sources = {source for clip in train.clips if (source := _cut_from(clip))}
    found = {
        clip
        for clip in val.clips
        if (clip.shard, clip.video) in places or _cut_from(clip) in sources
    }
    others = [clip for clip in val.clips if clip not in found]
    pairs = (pair for alike in (True, False) for pair in _of_one_size(train, others, alike))
    found |= {ours for ours, theirs in islice(pairs, COMPARED) if _same(train, val, ours, theirs)}
    return [clip for clip in val.clips if clip in found]


def _cut_from(clip: ClipRef) -> str | None:
    """Return the name of the longer video that a clip was cut from, if its key says so."""
    source = source_of(clip.key)
    return source if source != clip.key else None


def _of_one_size(
    train: ShardIndex, val: Iterable[ClipRef], alike: bool
) -> Iterator[tuple[ClipRef, ClipRef]]:
    """Yield pairs of videos of one size whose keys or captions are the same, or are not."""
    sizes: dict[int, list[ClipRef]] = {}
    for clip in val:
        sizes.setdefault(clip.video[1], []).append(clip)
    for clip in train.clips:
        for ours in sizes.get(clip.video[1], ()):
            if alike == (ours.key == clip.key or ours.caption == clip.caption):
                yield ours, clip


def _same(train: ShardIndex, val: ShardIndex, ours: ClipRef, theirs: ClipRef) -> bool:
    parts = zip(_parts(val, ours), _parts(train, theirs), strict=False)
    equal = [one == other for one, other in parts]
    return bool(equal) and all(equal)


def _parts(index: ShardIndex, clip: ClipRef) -> Iterator[bytes]:
    """Yield bytes from the start, middle and end of a video; nothing if it is not available."""
    path = index.cache.place(clip.shard) if index.cache else Path(clip.shard)
    offset, size = clip.video
    if path.is_file():
        with path.open("rb", buffering=0) as file:
            for at in (0, size // 2, max(size - SAMPLED, 0)):
                yield os.pread(file.fileno(), min(SAMPLED, size - at), offset + at)
