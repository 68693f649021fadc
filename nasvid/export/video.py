"""Videos as files and bytes: MP4 that all players support, animated WebP and GIF for web pages."""

from __future__ import annotations

import io
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import av.error
import numpy as np
from PIL import Image

from nasvid.data.decode import open_video
from nasvid.data.errors import ClipError
from nasvid.host.files import atomic_path
from nasvid.host.reading import damage

CRF = "12"
"""H.264 quality: visually lossless, because samples are small and viewed enlarged."""
MOST_BYTES = 1 << 30
"""Limit on the bytes of all frames of a file that is read."""


FORMATS = (".mp4", ".webp", ".gif", ".png")
"""File name extensions that `write_video` supports."""
OF_IMAGES = ".png"
"""The one of them that is only for a video of one frame."""


def write_video(path: Path, video: np.ndarray, fps: float, *, scale: int = 1) -> None:
    """Write `t h w c` uint8 RGB in the format of the path's extension, one of FORMATS.

    Each pixel becomes a square of `scale` pixels. WebP is lossless; a GIF has 256 colours and
    shows each frame for a multiple of 10 ms; a PNG is of one frame.

    Raises:
        ValueError: the array is not a video, an MP4's height or width would be odd, or there are
            several frames for a PNG.
    """
    if path.suffix.lower() == ".mp4":
        write_mp4(path, video, fps, scale=scale)
        return
    enlarged = video.repeat(scale, axis=1).repeat(scale, axis=2)
    encode = {".webp": encode_webp, ".gif": encode_gif, ".png": encode_png}[path.suffix.lower()]
    content = encode(enlarged, fps)
    with atomic_path(path, needed=len(content)) as temporary:
        temporary.write_bytes(content)


def write_mp4(path: Path, video: np.ndarray, fps: float, *, scale: int = 1) -> None:
    """Write `t h w c` uint8 RGB as H.264 (yuv420p), each pixel as a square of `scale` pixels.

    Raises:
        ValueError: the array is not a video, or the height or width would be odd.
    """
    _check(video)
    video = video.repeat(scale, axis=1).repeat(scale, axis=2)
    height, width = video.shape[1:3]
    if height % 2 or width % 2:
        raise ValueError(
            f"H.264 needs an even height and width, not {height}x{width}; use an even scale"
        )
    rate = Fraction(fps).limit_denominator(1001)
    file = io.BytesIO()  # the library's own error about a full disk would not say so
    with av.open(file, "w", format="mp4") as container:
        stream = container.add_stream("libx264", rate=rate, options={"crf": CRF})
        stream.height, stream.width, stream.pix_fmt = height, width, "yuv420p"
        for frame in video:
            picture = av.VideoFrame.from_ndarray(np.ascontiguousarray(frame), format="rgb24")
            container.mux(stream.encode(picture))
        container.mux(stream.encode())
    with atomic_path(path, needed=file.tell()) as temporary:
        temporary.write_bytes(file.getvalue())


def read_mp4(path: Path) -> np.ndarray:
    """Return the frames of a video file: `t h w c` uint8 RGB.

    As with clips, only containers that cannot refer to other files are opened.

    Raises:
        Damaged: the file is not a video.
    """
    with damage(path, ClipError):
        frames: list[np.ndarray] = []
        with open_video(path.read_bytes()) as (container, stream):
            for frame in container.decode(stream):
                frames.append(frame.to_ndarray(format="rgb24"))
                if len(frames) * frames[0].size > MOST_BYTES:
                    raise ClipError("it is larger than any sample")
        if not frames:
            raise ClipError("it has no frames")
        return np.stack(frames)


def encode_webp(video: np.ndarray, fps: float, *, quality: int | None = None) -> bytes:
    """Return `t h w c` uint8 RGB as a looping animated WebP: lossless, or with a quality of 0-100.

    Raises:
        ValueError: the array is not a video.
    """
    options = {"lossless": True} if quality is None else {"quality": quality}
    return _animated(video, fps, format="WEBP", method=4, **options)


def encode_gif(video: np.ndarray, fps: float) -> bytes:
    """Return `t h w c` uint8 RGB as a looping GIF.

    Raises:
        ValueError: the array is not a video.
    """
    return _animated(video, fps, format="GIF")


def encode_png(video: np.ndarray, fps: float = 1.0) -> bytes:
    """Return the only frame of a `t h w c` uint8 RGB video as a PNG.

    Raises:
        ValueError: the array is not a video of one frame.
    """
    _check(video)
    del fps
    (frame,) = video
    buffer = io.BytesIO()
    Image.fromarray(frame).save(buffer, "PNG")
    return buffer.getvalue()


def _animated(video: np.ndarray, fps: float, **options: Any) -> bytes:
    _check(video)
    first, *rest = (Image.fromarray(frame) for frame in video)
    buffer = io.BytesIO()
    duration = round(1000 / fps)
    first.save(buffer, save_all=True, append_images=rest, duration=duration, loop=0, **options)
    return buffer.getvalue()


def _check(video: np.ndarray) -> None:
    if video.ndim != 4 or video.shape[-1] != 3 or video.dtype != np.uint8 or not video.size:
        raise ValueError(f"Not a `t h w c` uint8 RGB video: {video.dtype} {video.shape}")
