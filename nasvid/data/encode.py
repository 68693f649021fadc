"""Encoding pictures as H.264 in MP4, in memory."""

from __future__ import annotations

import io
from collections.abc import Iterable, Iterator
from fractions import Fraction
from itertools import chain

import av
import numpy as np
from av.bitstream import BitStreamFilterContext
from av.container import OutputContainer
from av.packet import Packet
from av.video.reformatter import ColorPrimaries, ColorRange, Colorspace, ColorTrc
from av.video.stream import VideoStream

OPTIONS = {"preset": "slow", "threads": "1", "x264-params": "mbtree=0"}
"""For reproducible bytes: at small sizes x264's mbtree reads uninitialised memory."""
WITHOUT_COMMENTS = "filter_units=remove_types=6"
"""Removes x264's description of itself, which takes up a quarter of a small clip."""

Timed = tuple[np.ndarray, int, Fraction]
"""A picture `h w c`, uint8 RGB; its time stamp; the time stamp's unit in seconds."""


def encode(
    pictures: Iterable[av.VideoFrame], width: int, height: int, rate: Fraction, *, crf: int = 18
) -> bytes:
    """Return an MP4 (x264, yuv420p) of pictures of one even size, shown at a constant rate.

    The same pictures give the same bytes.
    """

    def shown() -> Iterator[av.VideoFrame]:
        for number, picture in enumerate(pictures):
            picture.pts, picture.time_base = number, 1 / rate
            yield picture

    buffer = io.BytesIO()
    with av.open(buffer, "w", format="mp4") as container:
        stream = container.add_stream("libx264", rate=rate, options=OPTIONS | {"crf": str(crf)})
        stream.width, stream.height, stream.pix_fmt = width, height, "yuv420p"
        _write(container, stream, shown())
    return buffer.getvalue()


def encode_timed(pictures: Iterable[Timed], *, crf: int = 18) -> bytes:
    """Return an MP4 (x264, yuv420p) of RGB pictures of one even size, each shown at its own time.

    Colours are BT.709 in limited range, and tagged as such.

    Raises:
        ValueError: there are no pictures.
    """
    remaining = iter(pictures)
    first = next(remaining, None)
    if first is None:
        raise ValueError("no pictures")
    (height, width, _), unit = first[0].shape, first[2]
    buffer = io.BytesIO()
    with av.open(buffer, "w", format="mp4") as container:
        stream = container.add_stream("libx264", options=OPTIONS | {"crf": str(crf)})
        stream.width, stream.height, stream.pix_fmt = width, height, "yuv420p"
        stream.time_base = stream.codec_context.time_base = unit
        context = stream.codec_context
        context.colorspace, context.color_range = Colorspace.ITU709, ColorRange.MPEG
        context.color_primaries, context.color_trc = ColorPrimaries.BT709, ColorTrc.BT709
        _write(container, stream, map(_limited, chain([first], remaining)))
    return buffer.getvalue()


def _limited(timed: Timed) -> av.VideoFrame:
    picture, pts, unit = timed
    rgb = av.VideoFrame.from_ndarray(np.ascontiguousarray(picture), format="rgb24")
    frame = rgb.reformat(
        format="yuv420p", dst_colorspace=Colorspace.ITU709, dst_color_range=ColorRange.MPEG
    )
    frame.pts, frame.time_base = pts, unit
    return frame


def _write(
    container: OutputContainer,
    stream: VideoStream,
    pictures: Iterable[av.VideoFrame],
) -> None:
    container.start_encoding()
    bare = BitStreamFilterContext(WITHOUT_COMMENTS, stream)
    for packet in _packets(stream, pictures):
        for kept in bare.filter(packet):
            kept.stream = stream
            container.mux(kept)


def _packets(stream: VideoStream, pictures: Iterable[av.VideoFrame]) -> Iterator[Packet | None]:
    """Yield the encoded packets, then None, which marks the end for the filter that follows."""
    for picture in pictures:
        yield from stream.encode(picture)
    yield from stream.encode()
    yield None
