import io
import tarfile
from collections.abc import Callable, Iterable
from fractions import Fraction
from functools import cache
from pathlib import Path

import av
import numpy as np
import pytest


@cache
def _encode(
    frames: int, fps: int, width: int, height: int, container: str, codec: str, gop: int
) -> bytes:
    """Encode frames that get brighter by 4 of 255 each, with a dark left and a light right edge."""
    buffer = io.BytesIO()
    with av.open(buffer, "w", format=container) as out:
        stream = out.add_stream(codec, rate=Fraction(fps), options={"crf": "5"})
        stream.width, stream.height, stream.pix_fmt = width, height, "yuv420p"
        stream.codec_context.gop_size = gop
        for number in range(frames):
            picture = np.full((height, width, 3), min(20 + 4 * number, 255), np.uint8)
            picture[:, : width // 8], picture[:, -(width // 8) :] = 0, 255
            out.mux(stream.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")))
        out.mux(stream.encode())
    return buffer.getvalue()


@pytest.fixture(scope="session")
def make_video() -> Callable[..., bytes]:
    """Real videos; frame n has the gray value 20 + 4 n in its middle."""

    def make(
        frames: int = 20,
        fps: int = 8,
        *,
        width: int = 48,
        height: int = 32,
        container: str = "mp4",
        codec: str = "libx264",
        gop: int = 6,
    ) -> bytes:
        return _encode(frames, fps, width, height, container, codec, gop)

    return make


@pytest.fixture(scope="session")
def write_tar() -> Callable[..., Path]:
    """Write (name, bytes) members as a tar."""

    def write(path: Path, members: Iterable[tuple[str, bytes]], form: int = tarfile.PAX_FORMAT):
        path.parent.mkdir(parents=True, exist_ok=True)
        with tarfile.open(path, "w", format=form) as tar:
            for name, body in members:
                info = tarfile.TarInfo(name)
                info.size = len(body)
                tar.addfile(info, io.BytesIO(body))
        return path

    return write
