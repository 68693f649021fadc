"""Videos as files and bytes: MP4 that every player shows, animated WebP for web pages."""

from __future__ import annotations

import io
from fractions import Fraction
from pathlib import Path

import av
import av.error
import numpy as np
from PIL import Image

from nasvid.errors import UserError
from nasvid.host.files import atomic_path

CRF = "12"
"""H.264 quality: visually lossless, since samples are small and viewed enlarged."""


def write_mp4(path: Path, video: np.ndarray, fps: float, *, scale: int = 1) -> None:
    """Write `t h w c` uint8 RGB as H.264 (yuv420p), each pixel as a square of `scale` pixels.

    Raises:
        ValueError: the array is not a video, or a side of the picture would be odd.
    """
    _check(video)
    video = video.repeat(scale, axis=1).repeat(scale, axis=2)
    height, width = video.shape[1:3]
    if height % 2 or width % 2:
        raise ValueError(f"H.264 needs even sides, not {height}x{width}; use an even scale")
    rate = Fraction(fps).limit_denominator(1001)
    with atomic_path(path) as temporary, av.open(str(temporary), "w", format="mp4") as container:
        stream = container.add_stream("libx264", rate=rate, options={"crf": CRF})
        stream.height, stream.width, stream.pix_fmt = height, width, "yuv420p"
        for frame in video:
            picture = av.VideoFrame.from_ndarray(np.ascontiguousarray(frame), format="rgb24")
            container.mux(stream.encode(picture))
        container.mux(stream.encode())


def read_mp4(path: Path) -> np.ndarray:
    """Return the frames of a video file: `t h w c` uint8 RGB.

    Raises:
        UserError: the file is not a video.
    """
    try:
        with av.open(str(path)) as container:
            frames = [frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)]
    except (av.error.FFmpegError, IndexError) as error:
        raise UserError(f"{path} cannot be read as a video: {error}") from error
    if not frames:
        raise UserError(f"{path} has no frames")
    return np.stack(frames)


def encode_webp(video: np.ndarray, fps: float, *, quality: int | None = None) -> bytes:
    """Return `t h w c` uint8 RGB as a looping animated WebP: lossless, or with a quality of 0-100.

    Raises:
        ValueError: the array is not a video.
    """
    _check(video)
    first, *rest = (Image.fromarray(frame) for frame in video)
    options = {"lossless": True} if quality is None else {"quality": quality}
    buffer = io.BytesIO()
    first.save(
        buffer,
        format="WEBP",
        save_all=True,
        append_images=rest,
        duration=round(1000 / fps),
        loop=0,
        method=4,
        **options,
    )
    return buffer.getvalue()


def _check(video: np.ndarray) -> None:
    if video.ndim != 4 or video.shape[-1] != 3 or video.dtype != np.uint8 or not video.size:
        raise ValueError(f"Not a `t h w c` uint8 RGB video: {video.dtype} {video.shape}")
