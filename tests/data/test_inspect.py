import json
from dataclasses import asdict

from PIL import Image

from nasvid.data.inspect import SHEET_SIDE, SHEET_TEXT, contact_sheet, inspect
from nasvid.data.shards import index_shards


def write_shard(tmp_path, write_tar, make_video):
    """Write 6 clips of two kinds, one broken, and a sample without caption."""
    files = []
    for number in range(6):
        video = make_video(20, 8) if number % 2 else make_video(30, 25, width=96, height=64)
        video = b"garbage" if number == 4 else video
        files += [(f"{number}.mp4", video), (f"{number}.txt", b"the " * number + b"end")]
    write_tar(tmp_path / "s.tar", [*files, ("x.mp4", b"v"), ("x.pth", b"weights")])


def test_an_inspection_counts_what_is_there(tmp_path, write_tar, make_video):
    write_shard(tmp_path, write_tar, make_video)
    found = inspect(index_shards("s.tar", tmp_path))
    assert (found.shards, found.clips, found.ignored, found.sampled) == (1, 6, 1, 6)
    assert found.bytes == (tmp_path / "s.tar").stat().st_size
    assert found.skipped == {"no caption": 1}
    assert found.broken == {"broken video": 1}
    assert found.resolutions == {"48x32": 3, "96x64": 2}
    assert found.rates == {"8": 3, "25": 2}
    assert (found.frames.least, found.frames.median, found.frames.greatest) == (20, 20, 30)
    assert (found.seconds.least, found.seconds.greatest) == (1.2, 2.5)
    assert (found.words.least, found.words.median, found.words.greatest) == (1, 3.5, 6)
    assert found.frequent == {"end": 6, "the": 5}
    assert found.examples[0] == "end"
    assert json.loads(json.dumps(asdict(found)))["clips"] == 6


def test_a_sample_is_spread_over_the_shards(tmp_path, write_tar, make_video):
    write_shard(tmp_path, write_tar, make_video)
    found = inspect(index_shards("s.tar", tmp_path), sample=2)
    assert found.sampled == 2
    assert found.resolutions == {"96x64": 1, "48x32": 1}


def test_an_inspection_of_nothing_usable_says_why(tmp_path, write_tar):
    write_tar(tmp_path / "s.tar", [("a.mp4", b"")])
    found = inspect(index_shards("s.tar", tmp_path))
    assert (found.clips, found.sampled, found.skipped) == (0, 0, {"broken video": 1})
    contact_sheet(index_shards("s.tar", tmp_path), tmp_path / "sheet.png")


def test_a_contact_sheet_shows_the_frames_under_the_captions(tmp_path, write_tar, make_video):
    write_shard(tmp_path, write_tar, make_video)
    path = tmp_path / "pictures" / "sheet.png"
    contact_sheet(index_shards("s.tar", tmp_path), path, n=3)
    with Image.open(path) as sheet:
        assert sheet.size == (2 * 8 * SHEET_SIDE, 2 * (SHEET_SIDE + SHEET_TEXT))
        gray = [sheet.getpixel((SHEET_SIDE * n + 40, SHEET_TEXT + 40)) for n in range(8)]
        caption = sheet.crop((0, 0, 8 * SHEET_SIDE, SHEET_TEXT)).getextrema()
    assert gray == sorted(gray)
    assert gray[0] != gray[-1]
    assert caption[0][1] > 200
