"""Images beside videos: packed, indexed, and cut to the resolutions that take them."""

import io
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from nasvid.data.decode import Cut, decode, probe
from nasvid.data.errors import ClipError, DataError
from nasvid.data.inspect import inspect
from nasvid.data.loader import BatchRequest, Cutting, load_batches
from nasvid.data.pack import pack
from nasvid.data.samples import read_video
from nasvid.data.shards import ShardIndex, index_shards
from nasvid.shapes import Resolution


def picture(width: int = 24, height: int = 16) -> Image.Image:
    """Return an image that is red above and blue below."""
    pixels = np.zeros((height, width, 3), np.uint8)
    pixels[: height // 2, :, 0] = pixels[height // 2 :, :, 2] = 255
    return Image.fromarray(pixels)


def encoded(image: Image.Image, form: str, **options: object) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, form, **options)
    return buffer.getvalue()


IMAGES = {
    "jpg": encoded(picture(), "JPEG", quality=100),
    "png": encoded(picture(), "PNG"),
    "webp": encoded(picture(), "WEBP", lossless=True),
}


def is_red_above_blue(frame: np.ndarray) -> bool:
    top, bottom = frame[1].mean(0), frame[-2].mean(0)
    red, blue = np.array([255, 0, 0]), np.array([0, 0, 255])
    return bool(np.abs(top - red).max() < 12 and np.abs(bottom - blue).max() < 12)


@pytest.mark.parametrize("form", IMAGES)
def test_an_image_is_a_clip_of_one_frame(form: str) -> None:
    info = probe(IMAGES[form])
    assert (info.width, info.height, info.frames, info.fps) == (24, 16, 1, 0.0)
    clip = decode(IMAGES[form], frames=1, fps=8.0, height=8, width=6, cut=Cut(start=0.9, left=1.0))
    assert clip.frames.shape == (1, 8, 6, 3)
    assert clip.fps == 8.0
    assert is_red_above_blue(clip.frames[0])
    with pytest.raises(ClipError, match="too short"):
        decode(IMAGES[form], frames=2, fps=8.0, height=8, width=8)


def test_images_are_shown_as_people_see_them() -> None:
    """Upright by their EXIF, transparent parts white, 16 bits and palettes with their own tones."""

    def seen(content: bytes) -> np.ndarray:
        info = probe(content)
        return decode(content, frames=1, fps=8, height=info.height, width=info.width).frames[0]

    turned = Image.Exif()
    turned[0x0112] = 6  # a quarter turn
    on_its_side = picture().transpose(Image.Transpose.ROTATE_90)
    assert is_red_above_blue(seen(encoded(on_its_side, "PNG", exif=turned)))
    clear = Image.new("RGBA", (4, 4), (10, 20, 30, 0))
    assert (seen(encoded(clear, "PNG")) == 255).all()
    deep = Image.fromarray(np.full((4, 4), 128 << 8, np.uint16))
    assert (seen(encoded(deep, "PNG")) == 128).all()
    assert is_red_above_blue(seen(encoded(picture().quantize(4), "PNG")))
    assert (seen(encoded(Image.new("L", (4, 4), 77), "PNG")) == 77).all()


@pytest.mark.parametrize("content", [IMAGES["png"][:60], IMAGES["jpg"][:30], b"\xff\xd8\xff" * 9])
def test_a_broken_image_is_a_reason_to_skip_it(content: bytes) -> None:
    with pytest.raises(ClipError, match="broken image"):
        probe(content)


def test_an_image_that_is_too_large_is_not_decoded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("nasvid.data.image.MAX_PIXELS", 24 * 16 - 1)
    with pytest.raises(ClipError, match="frame too large"):
        probe(IMAGES["jpg"])


@pytest.fixture(scope="module")
def folder(make_video, tmp_path_factory) -> Path:
    """Make a folder of two videos and four images; one is a video's, one cannot be read."""
    root = tmp_path_factory.mktemp("mixed")
    for name, content in {
        "a.mp4": make_video(12, width=48, height=32),
        "a.jpg": IMAGES["jpg"],
        "b.mp4": make_video(9, width=32, height=48),
        **{f"{ending}.{ending}": content for ending, content in IMAGES.items()},
        "old.bmp": encoded(picture(), "BMP"),
        "large.JPEG": encoded(picture(96, 64), "JPEG"),
    }.items():
        (root / name).write_bytes(content)
        (root / name).with_suffix(".txt").write_text(f"words about {name}")
    return root


@pytest.fixture(scope="module")
def index(folder: Path, tmp_path_factory) -> ShardIndex:
    out = tmp_path_factory.mktemp("packed") / "out"
    report = pack(folder, out, size=32)
    assert report.clips == 6
    assert dict(report.skipped) == {"picture of a video": 1, "unsupported image .bmp": 1}
    return index_shards("*.tar", out)


def test_images_are_packed_beside_videos(index: ShardIndex) -> None:
    kinds = {clip.key: clip.is_image for clip in index.clips}
    images = {"jpg", "png", "webp", "large"}
    assert kinds == {name: name in images for name in ("a", "b", *images)}
    contents = {clip.key: read_video(clip) for clip in index.clips}
    assert contents["png"] == IMAGES["png"], "what is small enough is copied"
    small = probe(contents["large"])
    assert (small.container, small.width, small.height) == ("jpeg", 48, 32)
    assert inspect(index).images == 4


def keys(index: ShardIndex, resolution: Resolution, frames: int = 4) -> set[str]:
    (batch,) = load_batches(
        index,
        [BatchRequest(0, resolution, 0, 12)],
        seed=0,
        workers=0,
        cutting=Cutting(frames=frames, fps=8.0, flip=False, train=True),
    )
    length = resolution.frames or frames
    assert batch.video.shape == (12, 3, length, resolution.height, resolution.width)
    assert not batch.skipped
    return set(batch.keys)


def test_one_frame_comes_from_either_and_several_from_videos_alone(index: ShardIndex) -> None:
    everything = {clip.key for clip in index.clips}
    assert keys(index, Resolution(16, 24, 1)) == everything
    assert keys(index, Resolution(16, 24), frames=1) == everything
    assert keys(index, Resolution(16, 24)) == {"a", "b"}
    assert keys(index, Resolution(24, 16, 6)) == {"a", "b"}


def test_images_alone_give_no_clips_of_several_frames(tmp_path: Path, write_tar) -> None:
    members = [("x.png", IMAGES["png"]), ("x.txt", b"words")]
    index = index_shards("x.tar", write_tar(tmp_path / "x.tar", members).parent)
    assert keys(index, Resolution(8, 8, 1)) == {"x"}
    with pytest.raises(DataError, match=r"No clip in .*x.tar is for 8x12x2"):
        keys(index, Resolution(8, 12, 2))


def test_a_picture_beside_a_video_in_a_shard_is_no_sample(
    tmp_path: Path, write_tar, make_video
) -> None:
    members = [("x.jpg", IMAGES["jpg"]), ("x.mp4", make_video()), ("x.txt", b"words")]
    index = index_shards("x.tar", write_tar(tmp_path / "x.tar", members).parent)
    assert [(clip.key, clip.is_image) for clip in index.clips] == [("x", False)]
    assert index.ignored == 1
