"""Sizes that an MP4's tables claim; FFmpeg allocates memory for them before it reads further."""

from __future__ import annotations

from collections.abc import Iterator

CONTAINERS = frozenset({b"moov", b"trak", b"mdia", b"minf", b"stbl", b"moof", b"traf"})
"""Boxes that contain other boxes."""
COUNTS = {b"stsz": 8, b"stz2": 8, b"trun": 4}
"""Box -> offset of its number of samples in its body (ISO/IEC 14496-12)."""


def claimed_samples(video: bytes) -> int:
    """Return the number of samples that all tables of an MP4 claim; 0 for other containers."""
    return sum(_claims(video, 0, len(video)))


def _claims(video: bytes, at: int, end: int) -> Iterator[int]:
    while at + 8 <= end:
        size, kind, head = int.from_bytes(video[at : at + 4]), video[at + 4 : at + 8], 8
        if size == 1:
            size, head = int.from_bytes(video[at + 8 : at + 16]), 16
        after = min(at + size, end) if size else end
        if after < at + head:
            return
        if kind in CONTAINERS:
            yield from _claims(video, at + head, after)
        elif kind in COUNTS:
            place = at + head + COUNTS[kind]
            yield int.from_bytes(video[place : place + 4])
        at = after
