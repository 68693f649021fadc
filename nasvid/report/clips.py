"""Sample videos as animated pictures that fit into a page."""

from __future__ import annotations

import base64
from collections.abc import Sequence
from typing import Any

import numpy as np

from nasvid.export.video import encode_webp, read_mp4
from nasvid.report.collect import RunData, Video
from nasvid.shapes import Resolution

BUDGET = 1_500_000
"""Limit on the bytes of all pictures of a page together."""

Shown = tuple[str, Resolution, int]
"""What a sample shows: owner, resolution, index of the prompt."""
QUALITIES = (None, 85, 65, 45, 25)
"""WebP qualities, tried in this order until the pictures fit; None is lossless."""


def embedded(run: RunData) -> dict[Shown, str]:
    """Return (owner, resolution, index) -> the sample as a `data:` URL of a WebP.

    If they do not fit even at the lowest quality, the last prompts are left out.

    Raises:
        UserError: a video cannot be read; the message names it.
    """
    videos = sorted(run.videos, key=lambda video: video.index)
    frames = [native(read_mp4(video.path), video.resolution) for video in videos]
    fps = float(_mapping(run.recipe.get("data")).get("fps", 8.0))
    pictures = _encode(frames, fps)
    return {
        (video.owner, video.resolution, video.index): address(picture)
        for video, picture in zip(videos, pictures, strict=False)
    }


def native(video: np.ndarray, resolution: Resolution) -> np.ndarray:
    """Undo the enlargement of a `t h w c` video: keep one pixel of each square."""
    scale = max(1, video.shape[1] // resolution.height)
    return video[:, scale // 2 :: scale, scale // 2 :: scale]


def address(picture: bytes) -> str:
    """Return a WebP as a `data:` URL."""
    return "data:image/webp;base64," + base64.b64encode(picture).decode()


def _encode(frames: Sequence[np.ndarray], fps: float) -> list[bytes]:
    pictures: list[bytes] = []
    for quality in QUALITIES:
        pictures = [encode_webp(video, fps, quality=quality) for video in frames]
        if sum(map(len, pictures)) <= BUDGET:
            return pictures
    total = np.cumsum([len(picture) for picture in pictures])
    return pictures[: int(np.searchsorted(total, BUDGET, side="right"))]


def missing(run: RunData, shown: dict[Shown, str]) -> list[Video]:
    """Return the run's videos that are not shown on the page."""
    return [v for v in run.videos if (v.owner, v.resolution, v.index) not in shown]


def _mapping(value: Any) -> dict[str, Any]:
    return value if isinstance(value, dict) else {}
