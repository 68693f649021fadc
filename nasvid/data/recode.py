"""The bytes of a video or image as they are packed: as they are, or made smaller."""

from __future__ import annotations

from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path

from av.video.reformatter import VideoReformatter

from nasvid.data.decode import open_video, probe, upright
from nasvid.data.encode import Timed, encode_timed
from nasvid.data.errors import ClipError
from nasvid.data.image import is_image, resized
from nasvid.data.listing import ALIASES, ending_of


def packed_bytes(path: Path, size: int | None) -> tuple[str, bytes]:
    """Return extension and bytes of a video or image that opens, re-encoded if it is too large.

    size: most pixels of the short side; None to re-encode nothing.

    Raises:
        ClipError: it does not open. OSError: it cannot be read.
    """
    video = path.read_bytes()
    info = probe(video)
    short = min(info.width, info.height)
    if size is None or short <= size:
        return ALIASES.get(ending_of(path), ending_of(path)), video
    width, height = (2 * round(side * size / short / 2) for side in (info.width, info.height))
    if is_image(video):
        return ending_of(path), resized(video, width, height)
    return "mp4", encode_timed(_smaller(video, width, height))


def _smaller(video: bytes, width: int, height: int) -> Iterator[Timed]:
    """Yield a video's pictures, upright and scaled to a size, each with its time."""
    with open_video(video) as (container, stream):
        rate = Fraction(stream.average_rate or 25)
        resize = VideoReformatter()
        number = -1
        for number, picture in enumerate(container.decode(stream)):
            if picture.pts is None or picture.time_base is None or container.format.name == "avi":
                pts, unit = number, 1 / rate
            else:
                pts, unit = picture.pts, picture.time_base
            yield upright(picture, width, height, resize), pts, unit
        if number < 0:
            raise ClipError("broken video")
