"""Sinusoidal embeddings of several widths."""

from __future__ import annotations

from nasvid.slices import Segments


def nearest_frequencies(kept: int, size: int) -> Segments:
    """Return the columns of a sinusoidal embedding of width `size` for one of width `kept`.

    Both halves (cosines, then sines) fall geometrically from 1 to 1/10,000: a narrower embedding
    takes the columns whose frequencies are nearest its own.
    """
    half, full = kept // 2, size // 2
    nearest = [round(i * full / half) for i in range(half)]
    starts = [start + column for start in (0, full) for column in nearest]
    return Segments(*((at, at + 1) for at in starts))
