"""From the bytes of an encoded video, or of an image, to the frames of a clip."""

from __future__ import annotations

import io
import sys
from bisect import bisect_left, bisect_right
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from fractions import Fraction
from itertools import islice, pairwise

import av
import numpy as np
from av.container import InputContainer
from av.error import FFmpegError
from av.video.frame import VideoFrame
from av.video.reformatter import VideoReformatter
from av.video.stream import VideoStream

from nasvid.data.boxes import claimed_samples
from nasvid.data.errors import ClipError
from nasvid.data.image import MAX_PIXELS, is_image, picture_of
from nasvid.data.reels import Reel

FORMATS = "mov,matroska,avi"
"""Containers that may be opened: a playlist disguised as a video would make FFmpeg open others."""
MAX_DECODED = 1 << 32
"""Most pixels decoded for a clip: 500 frames of 4K."""
MAX_FRAMES = 1 << 14
"""Most frames decoded for a clip."""
MAX_PACKETS = 1 << 20
"""Most frames of a video: ten hours."""
MAX_CLAIMED = 1 << 24
"""Most samples of an MP4, video and sound together."""
MAX_ASPECT = 16
"""Largest aspect ratio of a frame, because it is scaled before it is cropped."""


@dataclass(frozen=True, slots=True)
class Cut:
    """The part of a video that becomes the clip: 0 is the first possible position, 1 the last.

    start: in time. top, left: of the crop. flip: mirror left and right.
    """

    start: float = 0.0
    top: float = 0.5
    left: float = 0.5
    flip: bool = False


@dataclass(frozen=True, slots=True)
class Clip:
    """Decoded frames.

    frames: `t h w c`, uint8, RGB. fps: frames per second of these frames.
    """

    frames: np.ndarray
    fps: float


@dataclass(frozen=True, slots=True)
class VideoInfo:
    """A video's properties from its container; `frames` counts packets, fps is their mean rate.

    width, height: as displayed, upright and with square pixels.
    """

    container: str
    codec: str
    width: int
    height: int
    frames: int
    fps: float


def decode(
    video: bytes,
    *,
    frames: int,
    fps: float,
    height: int,
    width: int,
    cut: Cut = Cut(),
    reel: Reel | None = None,
) -> Clip:
    """Decode `frames` frames at `fps`, resized to cover height x width pixels and cropped.

    The frames nearest in time are taken. If a video is too slow or too short for the rate, it is
    sampled as densely as its frames allow, and the clip has the actual rate. An image is a video of
    one frame.

    reel: of this video; frames that it has are not decoded again.

    Raises:
        ClipError: the video is broken or has too few frames.
    """
    if is_image(video):
        if frames > 1:
            raise ClipError("too short")
        picture = VideoFrame.from_ndarray(picture_of(video)[0], format="rgb24")
        fitted = _fit(picture, Fraction(1), (height, width), cut, VideoReformatter())
        return Clip(fitted[None], fps)
    reel = reel or Reel(0)
    if reel.seconds:
        wanted, rate = _choose(reel.seconds, frames, fps, cut.start)
        if reel.has(wanted):
            pictures = (reel.pictures[index] for index in wanted)
            return Clip(_fitted(pictures, reel.aspect, (height, width), cut), rate)
    with open_video(video) as (container, stream):
        timeline = _timeline(container, stream)
        wanted, rate = _choose(timeline.seconds, frames, fps, cut.start)
        reel.seconds, reel.aspect = timeline.seconds, _aspect(stream)
        pictures = reel.keeping(wanted, _pictures(container, stream, timeline, wanted))
        return Clip(_fitted(pictures, reel.aspect, (height, width), cut), rate)


def probe(video: bytes) -> VideoInfo:
    """Return a video's properties after decoding its first frame.

    Raises:
        ClipError: it cannot be opened or decoded.
    """
    if is_image(video):
        pixels, name = picture_of(video)
        picture = VideoFrame.from_ndarray(pixels, format="rgb24")
        width, height = shown_size(picture, Fraction(1))
        return VideoInfo(name, name, width, height, frames=1, fps=0.0)
    with open_video(video) as (container, stream):
        timeline = _timeline(container, stream)
        picture = next(_pictures(container, stream, timeline, [0]))
        width, height = shown_size(picture, _aspect(stream))
        seconds = timeline.seconds
        fps = (len(seconds) - 1) / (seconds[-1] - seconds[0]) if len(seconds) > 1 else 0.0
        return VideoInfo(
            container=container.format.name,
            codec=stream.codec_context.name,
            width=width,
            height=height,
            frames=len(seconds),
            fps=fps,
        )


@contextmanager
def open_video(video: bytes) -> Iterator[tuple[InputContainer, VideoStream]]:
    """Open a video for one thread; any FFmpeg error becomes a ClipError."""
    if claimed_samples(video) > min(len(video), MAX_CLAIMED):
        raise ClipError("broken video")
    limit = {"max_pixels": str(MAX_PIXELS)}
    try:
        with av.open(
            io.BytesIO(video),
            "r",
            options={"format_whitelist": FORMATS} | limit,
            metadata_errors="replace",
        ) as container:
            if not container.streams.video:
                raise ClipError("no video stream")
            stream = container.streams.video[0]
            if stream.codec_context is None:
                raise ClipError("unknown codec")
            stream.codec_context.thread_type = "SLICE"
            stream.codec_context.thread_count = 1
            stream.codec_context.options = limit
            if stream.width * stream.height > MAX_PIXELS:
                raise ClipError("frame too large")
            if not stream.width * stream.height:
                raise ClipError("broken video")
            yield container, stream
    except (FFmpegError, MemoryError) as error:
        raise ClipError("broken video") from error


@dataclass(frozen=True, slots=True)
class _Timeline:
    """When each frame of a video is shown.

    seconds: ascending. stamps: the same in the stream's time base; None where frames must be
    counted from the first. keys: the key frames' stamps, and where to seek for each.
    """

    seconds: list[float]
    stamps: list[int] | None
    keys: list[tuple[int, int]]


def _timeline(container: InputContainer, stream: VideoStream) -> _Timeline:
    """Read the time stamps of all packets without decoding.

    AVI's cannot be trusted (with B-frames they are in decoding order): its frames are assumed to
    have a constant rate.
    """
    demuxed = (p for p in container.demux(stream) if p.size and not p.is_discard)
    packets = list(islice(demuxed, MAX_PACKETS + 1))
    if len(packets) > MAX_PACKETS:
        raise ClipError("too many frames")
    stamps = sorted({p.pts for p in packets if p.pts is not None})
    base, rate = stream.time_base, stream.average_rate
    if stamps and base and container.format.name != "avi":
        keys = sorted(
            (p.pts, p.dts)
            for p in packets
            if p.is_keyframe and p.pts is not None and p.dts is not None
        )
        return _Timeline([float(stamp * base) for stamp in stamps], stamps, keys)
    if not packets or not rate:
        raise ClipError("broken video")
    return _Timeline([float(k / Fraction(rate)) for k in range(len(packets))], None, [])


def _choose(
    seconds: Sequence[float], frames: int, fps: float, start: float
) -> tuple[list[int], float]:
    """Return the indices of the frames to show and their rate."""
    if len(seconds) < frames:
        raise ClipError("too short")
    length = seconds[-1] - seconds[0]
    interval = length / max(len(seconds) - 1, 1)
    if frames == 1:
        return [min(int(start * len(seconds)), len(seconds) - 1)], fps
    step = max(1 / fps, interval)
    if step * (frames - 1) > length + interval / 2:
        step = length / (frames - 1)
    last_start = seconds[-1] + interval / 2 - step * (frames - 1)
    starts = max(bisect_right(seconds, last_start), 1)
    first = seconds[min(int(start * starts), starts - 1)]
    middles = [(a + b) / 2 for a, b in pairwise(seconds)]
    return [bisect_right(middles, first + k * step) for k in range(frames)], 1 / step


def _pictures(
    container: InputContainer, stream: VideoStream, timeline: _Timeline, wanted: list[int]
) -> Iterator[VideoFrame]:
    """Decode the wanted frames, starting at the key frame before the first of them."""
    stamps = timeline.stamps
    seek_to, first = _key_before(timeline, wanted[0])
    most = min(MAX_FRAMES, MAX_DECODED // (stream.width * stream.height))
    if wanted[-1] - first >= most:
        raise ClipError("too much to decode")
    container.seek(seek_to, stream=stream)
    taken = 0
    for count, picture in enumerate(container.decode(stream)):
        if count > 2 * most:  # more frames than time stamps
            raise ClipError("too much to decode")
        index = count
        if stamps is not None:
            index = bisect_right(stamps, picture.pts or 0) - 1
        while taken < len(wanted) and index >= wanted[taken]:
            yield picture
            taken += 1
        if taken == len(wanted):
            return
    raise ClipError("broken video")


def _key_before(timeline: _Timeline, index: int) -> tuple[int, int]:
    """Return decoding time and index of the last key frame shown at or before a frame."""
    if timeline.stamps is None:
        return 0, 0
    before = bisect_right(timeline.keys, (timeline.stamps[index], sys.maxsize))
    if not before:
        return timeline.stamps[0], 0
    shown, decoded = timeline.keys[before - 1]
    return decoded, bisect_left(timeline.stamps, shown)


def _aspect(stream: VideoStream) -> Fraction:
    """Return the width of a pixel in heights."""
    return stream.sample_aspect_ratio or Fraction(1)


def shown_size(picture: VideoFrame, aspect: Fraction) -> tuple[int, int]:
    """Return width and height of a picture as displayed: upright, with square pixels.

    aspect: the width of a pixel in heights.

    Raises:
        ClipError: one is more than `MAX_ASPECT` times the other.
    """
    width = max(round(picture.width * aspect), 1) if aspect > 0 else picture.width
    if max(width, picture.height) > MAX_ASPECT * min(width, picture.height):
        raise ClipError("extreme aspect ratio")
    return (picture.height, width) if _quarters(picture) % 2 else (width, picture.height)


def upright(picture: VideoFrame, width: int, height: int, resize: VideoReformatter) -> np.ndarray:
    """Return a picture scaled to a size and rotated upright: `h w c` uint8, RGB."""
    quarters = _quarters(picture)
    wide, tall = (height, width) if quarters % 2 else (width, height)
    scaled = resize.reformat(picture, wide, tall, "rgb24", interpolation="AREA").to_ndarray()
    return np.rot90(scaled, quarters)


def _quarters(picture: VideoFrame) -> int:
    """Return the number of counterclockwise quarter turns that make a picture upright."""
    return round(picture.rotation / 90) % 4


def _fitted(
    pictures: Iterable[VideoFrame], aspect: Fraction, size: tuple[int, int], cut: Cut
) -> np.ndarray:
    """Return pictures as `t h w c` uint8; see `_fit`."""
    resize = VideoReformatter()
    return np.stack([_fit(picture, aspect, size, cut, resize) for picture in pictures])


def _fit(
    picture: VideoFrame,
    aspect: Fraction,
    size: tuple[int, int],
    cut: Cut,
    resize: VideoReformatter,
) -> np.ndarray:
    """Return a picture as `h w c` uint8, scaled to cover height x width and cropped."""
    (height, width), (wide, tall) = size, shown_size(picture, aspect)
    scale = max(height / tall, width / wide)
    tall, wide = max(round(tall * scale), height), max(round(wide * scale), width)
    scaled = upright(picture, wide, tall, resize)
    top, left = round(cut.top * (tall - height)), round(cut.left * (wide - width))
    cropped = scaled[top : top + height, left : left + width]
    return np.array(
        cropped[:, ::-1] if cut.flip else cropped
    )  # a view would keep the whole picture
