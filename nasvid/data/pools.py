"""Which clips a resolution takes: images and videos, and clips shared by their own shapes."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from nasvid.data.samples import ClipRef
from nasvid.data.shards import ShardIndex
from nasvid.shapes import Resolution

ABOUT_AS_WELL = 0.05
"""A clip also goes where cropping keeps this much less of its pixels than where it keeps most."""


def pool(index: ShardIndex, resolution: Resolution, frames: int) -> Sequence[int]:
    """Return the numbers of the clips in an index that a resolution takes.

    One frame may come from an image or from a video, several come from videos alone. If the index
    has buckets, a clip goes to the resolution of the nearest aspect ratio for which it has the
    frames, and to those that fit it about as well. frames: of a resolution without its own.
    """
    if resolution in index.buckets:
        return list(_in_bucket(index, resolution, frames))
    if resolution.frames_or(frames) == 1 or not any(clip.is_image for clip in index.clips):
        return range(len(index.clips))
    return [number for number, clip in enumerate(index.clips) if not clip.is_image]


def _in_bucket(index: ShardIndex, resolution: Resolution, frames: int) -> Iterator[int]:
    for number, clip in enumerate(index.clips):
        kept = {
            each: kept_by_cropping(clip, each)
            for each in index.buckets
            if each.frames_or(frames) <= _frames(clip)
        }
        if resolution in kept and kept[resolution] >= max(kept.values()) - ABOUT_AS_WELL:
            yield number


def _frames(clip: ClipRef) -> int:
    assert clip.shape is not None, "an index with buckets knows the shapes"
    return clip.shape[0]


def kept_by_cropping(clip: ClipRef, resolution: Resolution) -> float:
    """Return the fraction of a clip's pixels that are left in the aspect ratio of a resolution."""
    assert clip.shape is not None
    _, height, width = clip.shape
    ratio = (width * resolution.height) / (height * resolution.width)
    return min(ratio, 1 / ratio)
