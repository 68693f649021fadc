"""Pictures to H.264 in MP4, in memory."""

from __future__ import annotations

import io
from collections.abc import Iterable, Iterator
from fractions import Fraction

import av
from av.bitstream import BitStreamFilterContext
from av.packet import Packet
from av.video.stream import VideoStream

OPTIONS = {"preset": "slow", "threads": "1", "x264-params": "mbtree=0"}
"""For bytes that repeat: x264's mbtree reads memory that it has not set at small sizes."""
WITHOUT_COMMENTS = "filter_units=remove_types=6"
"""Leaves out x264's message about itself, a quarter of a small clip."""


def encode(
    pictures: Iterable[av.VideoFrame], width: int, height: int, rate: Fraction, *, crf: int = 18
) -> bytes:
    """Return an MP4 (x264, yuv420p) of pictures of one even size, shown at a constant rate.

    The same pictures give the same bytes.
    """
    buffer = io.BytesIO()
    with av.open(buffer, "w", format="mp4") as container:
        stream = container.add_stream("libx264", rate=rate, options=OPTIONS | {"crf": str(crf)})
        stream.width, stream.height, stream.pix_fmt = width, height, "yuv420p"
        container.start_encoding()
        bare = BitStreamFilterContext(WITHOUT_COMMENTS, stream)
        for packet in _packets(stream, pictures, rate):
            for kept in bare.filter(packet):
                kept.stream = stream
                container.mux(kept)
    return buffer.getvalue()


def _packets(
    stream: VideoStream, pictures: Iterable[av.VideoFrame], rate: Fraction
) -> Iterator[Packet | None]:
    """Yield the encoded packets, then None: the end, for the filter that comes after."""
    for number, picture in enumerate(pictures):
        picture.pts, picture.time_base = number, 1 / rate
        yield from stream.encode(picture)
    yield from stream.encode()
    yield None
