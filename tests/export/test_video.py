import io
from pathlib import Path

import av
import numpy as np
import pytest
from PIL import Image

from nasvid.errors import UserError
from nasvid.export import video as videos
from nasvid.export.video import encode_webp, read_mp4, write_mp4


def gradient(frames: int = 6, side: int = 16) -> np.ndarray:
    """A smooth picture that brightens, so that lossy codecs keep it nearly whole."""
    ramp = np.linspace(40, 160, side)
    picture = np.stack(
        [np.tile(ramp, (side, 1)), np.tile(ramp[:, None], side), np.full((side, side), 90)]
    )
    steps = np.arange(frames)[:, None, None, None] * 8
    return (picture.transpose(1, 2, 0)[None] + steps).astype(np.uint8)


@pytest.mark.parametrize("scale", [1, 4])
def test_mp4_gives_back_the_frames_enlarged(tmp_path: Path, scale: int) -> None:
    video = gradient()
    write_mp4(tmp_path / "new" / "a.mp4", video, 8.0, scale=scale)
    read = read_mp4(tmp_path / "new" / "a.mp4")
    enlarged = video.repeat(scale, axis=1).repeat(scale, axis=2)
    assert read.shape == enlarged.shape
    assert read.dtype == np.uint8
    assert np.abs(read.astype(int) - enlarged).mean() < 4
    assert [file.name for file in (tmp_path / "new").iterdir()] == ["a.mp4"]


@pytest.mark.parametrize("fps", [8.0, 7.5, 30000 / 1001])
def test_mp4_is_what_players_show_at_the_right_speed(tmp_path: Path, fps: float) -> None:
    write_mp4(tmp_path / "a.mp4", gradient(), fps)
    with av.open(str(tmp_path / "a.mp4")) as container:
        stream = container.streams.video[0]
        assert stream.codec_context.name == "h264"
        assert stream.codec_context.pix_fmt == "yuv420p"
        assert float(stream.average_rate) == pytest.approx(fps, rel=1e-3)
        assert stream.frames == 6


def test_lossless_webp_is_the_video_bit_for_bit() -> None:
    video = np.random.default_rng(0).integers(0, 256, (5, 16, 16, 3), dtype=np.uint8)
    image = Image.open(io.BytesIO(encode_webp(video, 8.0)))
    assert image.n_frames == 5
    for index, frame in enumerate(video):
        image.seek(index)
        image.load()
        assert image.info["duration"] == 125
        np.testing.assert_array_equal(np.asarray(image.convert("RGB")), frame)


def test_a_lower_quality_is_smaller() -> None:
    video = np.random.default_rng(0).integers(0, 256, (5, 64, 64, 3), dtype=np.uint8)
    sizes = [len(encode_webp(video, 8.0, quality=quality)) for quality in (20, 80)]
    assert sizes[0] < sizes[1] < len(encode_webp(video, 8.0))


def test_an_odd_side_is_refused_with_the_way_out(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="15x15; use an even scale"):
        write_mp4(tmp_path / "a.mp4", gradient(side=15), 8.0)
    write_mp4(tmp_path / "a.mp4", gradient(side=15), 8.0, scale=2)
    assert read_mp4(tmp_path / "a.mp4").shape[1:3] == (30, 30)


@pytest.mark.parametrize("shape", [(6, 16, 16), (6, 16, 16, 4), (0, 16, 16, 3)])
def test_what_is_not_a_video_is_refused(tmp_path: Path, shape: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match="Not a `t h w c` uint8 RGB video"):
        write_mp4(tmp_path / "a.mp4", np.zeros(shape, np.uint8), 8.0)


@pytest.mark.parametrize("content", [b"", b"not a video at all"])
def test_an_unreadable_file_is_named(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "bad.mp4").write_bytes(content)
    with pytest.raises(UserError, match=r"bad\.mp4 is damaged"):
        read_mp4(tmp_path / "bad.mp4")


def test_a_sample_that_names_other_files_is_not_followed(tmp_path: Path) -> None:
    """As FFmpeg would by itself, for a playlist is a container to it."""
    write_mp4(tmp_path / "other.mp4", gradient(), 8.0)
    playlist = tmp_path / "16-0.mp4"
    playlist.write_text("ffconcat version 1.0\nfile other.mp4\n")
    with av.open(str(playlist)) as container:
        assert next(container.decode(video=0)) is not None
    with pytest.raises(UserError, match=r"16-0\.mp4"):
        read_mp4(playlist)


def test_a_sample_holds_only_so_much(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_mp4(tmp_path / "a.mp4", gradient(), 8.0)
    monkeypatch.setattr(videos, "MOST_BYTES", 5 * 16 * 16 * 3)
    with pytest.raises(UserError, match="larger than any sample"):
        read_mp4(tmp_path / "a.mp4")
