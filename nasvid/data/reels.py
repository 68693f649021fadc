"""Decoded frames that stay in memory, where a set of videos is small enough for that."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from fractions import Fraction

from av.video.frame import VideoFrame

KEPT = 1 << 28
"""Most bytes of the frames that one process keeps."""


@dataclass(slots=True)
class Reel:
    """The decoded frames of one video, for the next clips that are cut from it.

    most: bytes that all of its frames may take; of a larger video nothing is kept. seconds: when
    each frame is shown; empty before the first clip. aspect: the width of a pixel in heights.
    pictures: index -> frame.
    """

    most: int
    seconds: Sequence[float] = ()
    aspect: Fraction = Fraction(1)
    pictures: dict[int, VideoFrame] = field(default_factory=dict)

    def has(self, wanted: Iterable[int]) -> bool:
        """Return whether all these frames are here."""
        return self.pictures.keys() >= set(wanted)

    def keeping(
        self, wanted: Sequence[int], pictures: Iterable[VideoFrame]
    ) -> Iterator[VideoFrame]:
        """Yield the pictures, which have the indices `wanted`, and keep them if they are small."""
        for index, picture in zip(wanted, pictures, strict=True):
            size = sum(plane.buffer_size for plane in picture.planes)
            if size * len(self.seconds) <= self.most:
                self.pictures[index] = picture
            yield picture


@dataclass(slots=True)
class Reels:
    """The reels of a set, by their videos' content: a set of `videos` like these takes `KEPT`."""

    videos: int
    _reels: dict[bytes, Reel] = field(default_factory=dict)

    def of(self, video: bytes) -> Reel | None:
        """Return the reel of an encoded video; None if its frames would take too much memory."""
        most = KEPT // self.videos
        if len(video) > most:  # frames take more memory than their encoding
            return None
        return self._reels.setdefault(hashlib.blake2b(video).digest(), Reel(most))
