import io
from fractions import Fraction
from itertools import islice

import av
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nasvid.data import decode as decoding
from nasvid.data.boxes import claimed_samples
from nasvid.data.decode import Cut, decode, probe
from nasvid.data.digits import digit_clips
from nasvid.data.encode import encode
from nasvid.data.errors import ClipError

KINDS = [
    ("mp4", "libx264"),
    ("mov", "libx264"),
    ("mp4", "mpeg4"),
    ("avi", "mpeg4"),
    ("avi", "libx264"),
    ("webm", "libvpx-vp9"),
    ("matroska", "libx264"),
]


def numbers(clip) -> list[int]:
    """Return the numbers of the frames in a clip, from the gray of their middle."""
    side = clip.frames.shape[2] // 2
    return [round((float(value) - 20) / 4) for value in clip.frames[:, side, side].mean(axis=-1)]


def cut_at(start: float) -> Cut:
    return Cut(start=start)


@pytest.mark.parametrize(("container", "codec"), KINDS)
@pytest.mark.parametrize("gop", [1, 7, 50])
def test_a_clip_from_anywhere_is_what_decoding_from_the_start_gives(
    make_video, container, codec, gop
):
    video = make_video(30, 25, container=container, codec=codec, gop=gop)
    with av.open(io.BytesIO(video)) as opened:
        every = [frame.to_ndarray(format="rgb24") for frame in opened.decode(video=0)]
    for start in np.linspace(0, 0.999, 13):
        clip = decode(video, frames=5, fps=25, height=32, width=48, cut=cut_at(start))
        first = int(start * 26)
        assert clip.fps == pytest.approx(25)
        np.testing.assert_allclose(clip.frames, np.stack(every[first : first + 5]), atol=2)


@pytest.mark.parametrize(
    ("source", "wanted", "frames", "expected", "rate"),
    [
        (24, 8, 8, [0, 3, 6, 9, 12, 15, 18, 21], 8),
        (25, 10, 5, [0, 3, 5, 8, 10], 10),
        (8, 8, 8, list(range(8)), 8),
        (5, 8, 8, list(range(8)), 5),
        (30, 8, 16, [0, 2, 3, 5, 6, 8, 9, 11, 12, 14, 15, 17, 18, 20, 21, 23], None),
        (8, 8, 24, list(range(24)), 8),
    ],
)
def test_frames_are_the_nearest_in_time_and_the_rate_is_the_real_one(
    make_video, source, wanted, frames, expected, rate
):
    video = make_video(24, source, gop=50)
    clip = decode(video, frames=frames, fps=wanted, height=32, width=32)
    shown = numbers(clip)
    assert np.abs(np.subtract(shown, expected)).max() <= (rate is None)
    assert len({*shown}) == frames
    span = (shown[-1] - shown[0]) / (frames - 1)
    assert clip.fps == pytest.approx(rate or source / span, rel=1e-3)


def test_a_late_start_ends_with_the_last_frame(make_video):
    clip = decode(make_video(24, 24), frames=8, fps=8, height=32, width=32, cut=cut_at(0.9999))
    assert numbers(clip) == [2, 5, 8, 11, 14, 17, 20, 23]


def test_too_few_frames_is_a_reason(make_video):
    video = make_video(7)
    assert len(decode(video, frames=7, fps=8, height=16, width=16).frames) == 7
    with pytest.raises(ClipError, match="too short"):
        decode(video, frames=8, fps=8, height=16, width=16)


def test_the_picture_covers_the_crop_and_the_cut_says_where(make_video):
    video = make_video(2, width=96, height=32)
    centre = decode(video, frames=1, fps=8, height=32, width=32).frames[0]
    assert np.ptp(centre.astype(int)) < 8
    left = decode(video, frames=1, fps=8, height=32, width=32, cut=Cut(left=0)).frames[0]
    right = decode(video, frames=1, fps=8, height=32, width=32, cut=Cut(left=1)).frames[0]
    mirrored = decode(
        video, frames=1, fps=8, height=32, width=32, cut=Cut(left=0, flip=True)
    ).frames[0]
    assert left[16, 0].mean() < 10 < 245 < right[16, -1].mean()
    np.testing.assert_array_equal(mirrored, left[:, ::-1])


@pytest.mark.parametrize(("height", "width"), [(16, 16), (24, 40), (64, 64), (9, 31)])
def test_any_size_can_be_asked_for(make_video, height, width):
    clip = decode(make_video(), frames=3, fps=8, height=height, width=width)
    assert clip.frames.shape == (3, height, width, 3)
    assert clip.frames.dtype == np.uint8


def test_probe_says_what_a_video_is(make_video):
    info = probe(make_video(20, 25, width=96, height=64, container="webm", codec="libvpx-vp9"))
    assert (info.width, info.height, info.frames, info.codec) == (96, 64, 20, "vp9")
    assert info.fps == pytest.approx(25)


@settings(max_examples=150)
@given(data=st.data(), kind=st.sampled_from(KINDS))
def test_a_damaged_video_raises_nothing_but_clip_error(make_video, data, kind):
    video = bytearray(make_video(20, container=kind[0], codec=kind[1]))
    for _ in range(data.draw(st.integers(0, 5))):
        place = data.draw(st.integers(0, len(video) - 1))
        video[place : place + 4] = data.draw(st.binary(min_size=1, max_size=8))
    video = bytes(video[: data.draw(st.integers(0, len(video)))])
    reasons = set()
    for read in (
        lambda: decode(video, frames=8, fps=8, height=16, width=16, cut=cut_at(0.5)),
        lambda: probe(video),
    ):
        try:
            read()
        except ClipError as error:
            reasons.add(error.reason)
    assert reasons <= REASONS


REASONS = {
    "broken video",
    "extreme aspect ratio",
    "frame too large",
    "no video stream",
    "too much to decode",
    "too short",
    "unknown codec",
}


@pytest.mark.parametrize(
    ("frames", "width", "height", "reason"),
    [
        pytest.param(1, 8192, 4112, "frame too large", marks=pytest.mark.slow),
        (2, 2048, 2, "extreme aspect ratio"),
    ],
)
def test_a_small_file_of_vast_frames_is_left_out(make_video, frames, width, height, reason):
    video = make_video(frames, width=width, height=height)
    assert len(video) < 1_000_000
    with pytest.raises(ClipError, match=reason):
        decode(video, frames=2, fps=8, height=64, width=64)
    with pytest.raises(ClipError, match=reason):
        probe(video)


@pytest.mark.parametrize(("kind", "codec"), KINDS)
def test_what_is_decoded_for_a_clip_is_bounded(make_video, monkeypatch, kind, codec):
    """From the key frame on; one is every six frames, but in AVI all are decoded from the first."""
    video = make_video(60, container=kind, codec=codec)
    for name, value in (("MAX_FRAMES", 12), ("MAX_DECODED", 12 * 48 * 32)):
        with monkeypatch.context() as patch:
            patch.setattr(decoding, name, value)
            assert decode(video, frames=4, fps=8, height=16, width=16).frames.shape[0] == 4
            with pytest.raises(ClipError, match="too much to decode"):
                decode(video, frames=16, fps=8, height=16, width=16, cut=cut_at(1.0))
    monkeypatch.setattr(decoding, "MAX_PACKETS", 59)
    with pytest.raises(ClipError, match="too many frames"):
        probe(video)


def claiming(video: bytes, frames: int) -> bytes:
    """Return an MP4 whose tables claim a number of frames of one byte."""
    changed = bytearray(video)
    for box, places in ((b"stsz", ((8, 1), (12, frames))), (b"stts", ((12, frames),))):
        at = video.index(box)
        for place, value in places:
            changed[at + place : at + place + 4] = value.to_bytes(4)
    at = video.index(b"stsc")
    changed[at + 16 : at + 20] = frames.to_bytes(4)
    return bytes(changed)


def test_a_small_file_that_claims_a_hundred_million_frames_takes_no_memory(make_video):
    video = make_video()
    assert 20 <= claimed_samples(video) <= 40
    with pytest.raises(ClipError, match="broken video"):
        probe(claiming(video, 100_000_000))
    assert claimed_samples(make_video(container="webm", codec="libvpx-vp9")) == 0


def test_a_playlist_in_the_place_of_a_video_opens_no_other_file(tmp_path, make_video):
    other = tmp_path / "other.mp4"
    other.write_bytes(make_video())
    for playlist in (
        f"ffconcat version 1.0\nfile {other}\n",
        f"#EXTM3U\n#EXT-X-TARGETDURATION:9\n#EXTINF:2.0,\nfile://{other}\n#EXT-X-ENDLIST\n",
    ):
        with pytest.raises(ClipError, match="broken video"):
            probe(playlist.encode())


@pytest.mark.slow
def test_encoding_repeats_to_the_byte():
    clips = [clip.frames for clip in islice(digit_clips("val", 1), 40)]

    def once() -> list[bytes]:
        return [
            encode(
                (av.VideoFrame.from_ndarray(frame, format="rgb24") for frame in clip),
                *(64, 64, Fraction(8)),
            )
            for clip in clips
        ]

    first = once()
    assert all(once() == first for _ in range(4))
    assert not any(b"x264 - core" in video for video in first)
    assert {probe(video).frames for video in first} == {16}
