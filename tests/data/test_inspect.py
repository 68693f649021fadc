import json
from dataclasses import asdict

import pytest
from click.testing import CliRunner
from PIL import Image

from nasvid.cli.main import main
from nasvid.data.inspect import SHEET_SIDE, SHEET_TEXT, contact_sheet, inspect
from nasvid.data.shards import index_shards
from nasvid.host.files import NotWritten


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


def test_a_recipe_can_use_what_decodes_at_its_length(
    tmp_path, write_tar, make_video, write_recipe, monkeypatch
):
    """One clip is broken, three have 20 frames at 8 per second, two 30 at 25."""
    write_shard(tmp_path, write_tar, make_video)
    monkeypatch.chdir(tmp_path)
    recipe = write_recipe({"frames: 4": "frames: 24, fps: 20", "  32: {batch": "  40: {batch"})

    def shown(*arguments: str) -> list[str]:
        result = CliRunner().invoke(main, ["data", "inspect", *arguments])
        assert result.exit_code == 0, result.output
        return result.output.splitlines()

    lines = [
        "the recipe takes 24 frames at 20 per second:",
        "  16 px: 2 of 6 usable; 3: too short, with fewer than 24 frames; 1: broken video",
        "  40 px: 2 of 6 usable; 3: too short, with fewer than 24 frames; 1: broken video",
    ]
    assert shown("s.tar", "--recipe", recipe.name)[-3:] == lines
    sets = ["--set", "data.train=s.tar", "--set", "data.frames=20"]
    assert shown("--recipe", recipe.name, *sets)[-2:] == [
        "  16 px: 5 of 6 usable; 1: broken video; 3 are slower, and keep their own rate",
        "  40 px: 5 of 6 usable; 1: broken video; 3 are smaller and are enlarged; "
        "3 are slower, and keep their own rate",
    ]
    found = json.loads("\n".join(shown("s.tar", "--recipe", recipe.name, "--json")))
    assert [(use["resolution"], use["usable"]) for use in found["recipe"]] == [(16, 2), (40, 2)]


def test_an_inspection_needs_shards_or_a_recipe(error_of, write_recipe):
    assert "Name shards, or a recipe" in error_of("data", "inspect")
    assert "Name shards, or a recipe" in error_of("data", "inspect", "embedded", "--scale", "gpu")


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


def test_a_contact_sheet_that_does_not_fit_is_one_line(tmp_path, write_tar, make_video, mounted):
    write_shard(tmp_path, write_tar, make_video)
    disk = mounted("size=16k")
    (disk / "other").write_bytes(bytes(16 * 1024))
    index = index_shards("s.tar", tmp_path)
    with pytest.raises(NotWritten, match=r"x\.png cannot be written: No space left.* are needed"):
        contact_sheet(index, disk / "x.png", n=3)
    assert [path.name for path in disk.iterdir()] == ["other"]


def test_a_file_that_is_no_tar_is_one_error(tmp_path, error_of):
    (tmp_path / "a.mkv").write_bytes(b"\x1aE\xdf\xa3" * 500)
    (tmp_path / "b.mkv").write_bytes(b"\x1aE\xdf\xa3" * 500)
    message = error_of("data", "inspect", "a.mkv")
    assert (
        message == f"{tmp_path}/a.mkv is not a tar; pack videos into shards with nasvid data pack"
    )
    assert error_of("data", "inspect", "*.mkv").startswith(
        f"None of the 2 shards is a tar; the first, {tmp_path}/a.mkv, is not a tar"
    )


def test_where_nothing_is_usable_no_line_is_empty(tmp_path, write_tar, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "a.mkv").write_bytes(b"\x1aE\xdf\xa3" * 500)
    write_tar(tmp_path / "s.tar", [("a.mp4", b"video")])
    result = CliRunner().invoke(main, ["data", "inspect", "a.mkv", "s.tar"])
    assert result.exit_code == 0
    assert result.output.splitlines()[1:] == ["unusable: 1: not a tar", "unusable: 1: no caption"]
    write_tar(tmp_path / "s.tar", [("a.mp4", b"video"), ("a.txt", b"caption")])
    lines = CliRunner().invoke(main, ["data", "inspect", "s.tar"]).output.splitlines()
    assert lines[-1] == "1 clip opened:"
