"""Videos as they are shown: upright, with square pixels, in their colours, at their times."""

import io
import struct
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest
from av.video.reformatter import ColorRange, Colorspace

from nasvid.data.decode import decode, probe
from nasvid.data.pack import pack
from nasvid.data.samples import read_video
from nasvid.data.shards import index_shards

RED, GREEN, BLUE = (200, 30, 30), (30, 200, 30), (30, 30, 200)


def picture(height: int, width: int, level: int | None = None) -> np.ndarray:
    """Red at the top left, green at the top right, blue below; or all of one gray."""
    if level is not None:
        return np.full((height, width, 3), level, np.uint8)
    shown = np.full((height, width, 3), BLUE, np.uint8)
    shown[: height // 2, : width // 2], shown[: height // 2, width // 2 :] = RED, GREEN
    return shown


def video(
    pictures: list[np.ndarray],
    *,
    times: list[int] | None = None,
    space: Colorspace | None = None,
    full: bool = False,
    aspect: Fraction | None = None,
) -> bytes:
    buffer = io.BytesIO()
    with av.open(buffer, "w", format="mp4") as container:
        stream = container.add_stream("libx264", options={"crf": "1"})
        stream.height, stream.width = pictures[0].shape[:2]
        stream.pix_fmt = "yuv444p" if space else "yuv420p"
        stream.time_base = stream.codec_context.time_base = Fraction(1, 100)
        context = stream.codec_context
        if aspect:
            context.sample_aspect_ratio = aspect
        colour = {}
        if space:
            limits = ColorRange.JPEG if full else ColorRange.MPEG
            context.colorspace, context.color_range = space, limits
            colour = {"dst_colorspace": space, "dst_color_range": limits}
        for number, each in enumerate(pictures):
            rgb = av.VideoFrame.from_ndarray(each, format="rgb24")
            frame = rgb.reformat(format=stream.pix_fmt, **colour)
            frame.pts = times[number] if times else 10 * number
            frame.time_base = Fraction(1, 100)
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
    return buffer.getvalue()


def turned(mp4: bytes, matrix: tuple[int, int, int, int]) -> bytes:
    """Say in a track's header that its pictures are to be turned."""
    at = mp4.index(b"tkhd") + 4 + 40
    a, b, c, d = (each << 16 for each in matrix)
    return mp4[:at] + struct.pack(">9i", a, b, 0, c, d, 0, 0, 0, 1 << 30) + mp4[at + 36 :]


def corners(frame: np.ndarray) -> list[str]:
    """Return the colours of the corners, from the top left, clockwise."""
    height, width = frame.shape[:2]
    spots = [(2, 2), (2, width - 3), (height - 3, width - 3), (height - 3, 2)]
    return ["rgb"[int(frame[spot].argmax())] for spot in spots]


TURNS = {
    "as it is": ((1, 0, 0, 1), ["r", "g", "b", "b"], (64, 32)),
    "clockwise": ((0, 1, -1, 0), ["b", "r", "g", "b"], (32, 64)),
    "upside down": ((-1, 0, 0, -1), ["b", "b", "r", "g"], (64, 32)),
    "counterclockwise": ((0, -1, 1, 0), ["g", "b", "b", "r"], (32, 64)),
}


@pytest.mark.parametrize("turn", TURNS)
def test_a_phones_video_stands_upright(turn, tmp_path):
    matrix, expected, (width, height) = TURNS[turn]
    content = turned(video([picture(32, 64)] * 6), matrix)
    info = probe(content)
    assert (info.width, info.height) == (width, height)
    (frame,) = decode(content, frames=1, fps=10, height=height, width=width).frames
    assert corners(frame) == expected
    small = repacked(content, tmp_path)
    assert (probe(small).width, probe(small).height) == (width // 2, height // 2)
    (frame,) = decode(small, frames=1, fps=10, height=height // 2, width=width // 2).frames
    assert corners(frame) == expected


def test_pixels_that_are_not_square_become_so(tmp_path):
    content = video([picture(32, 32)] * 6, aspect=Fraction(2, 1))
    assert (probe(content).width, probe(content).height) == (64, 32)
    (frame,) = decode(content, frames=1, fps=10, height=32, width=32).frames
    middle = frame[4]
    assert (middle[:14].argmax(axis=1) == 0).all()
    assert (middle[18:].argmax(axis=1) == 1).all()
    small = probe(repacked(content, tmp_path))
    assert (small.width, small.height) == (32, 16)


@pytest.mark.parametrize("full", [False, True])
@pytest.mark.parametrize("space", [Colorspace.ITU709, Colorspace.ITU601])
def test_colours_are_those_that_the_video_says(space, full, tmp_path):
    content = video([picture(32, 64)] * 6, space=space, full=full)
    for each, height in ((content, 32), (repacked(content, tmp_path), 16)):
        (frame,) = decode(each, frames=1, fps=10, height=height, width=2 * height).frames
        for spot, colour in (((3, 4), RED), ((3, -5), GREEN), ((-4, 4), BLUE)):
            assert np.abs(frame[spot].astype(int) - colour).max() <= 6, (spot, frame[spot])


def test_a_variable_rate_stays_one(tmp_path):
    times = [0, 10, 20, 100, 110, 200, 300, 310]
    pictures = [picture(32, 64, 20 + 25 * number) for number in range(len(times))]
    content = video(pictures, times=times)
    small = repacked(content, tmp_path)
    for rate, frames in ((10, 8), (2, 6)):
        before, after = (
            decode(each, frames=frames, fps=rate, height=16, width=16).frames.mean(axis=(1, 2, 3))
            for each in (content, small)
        )
        assert np.abs(before - after).max() < 4
    assert probe(small).fps == pytest.approx(probe(content).fps)


def repacked(content: bytes, tmp_path: Path) -> bytes:
    """Return what is left of a video of 32 pixels that is packed at 16."""
    folder = tmp_path / "videos" / "c"
    folder.mkdir(parents=True)
    (folder / "a.mp4").write_bytes(content)
    pack(folder.parent, tmp_path / "out", size=16)
    (clip,) = index_shards("*.tar", tmp_path / "out").clips
    return read_video(clip)
