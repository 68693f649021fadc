"""A validation split by source video: a share, a list, a column."""

import random
from pathlib import Path

import pytest
from click.testing import CliRunner

from nasvid.cli.main import main
from nasvid.data.captions import Captions
from nasvid.data.errors import DataError
from nasvid.data.pack import pack
from nasvid.data.shards import index_shards
from nasvid.data.split import divide, source_of

UCF = [f"TaiChi/v_TaiChi_g{g:02d}_c{c:02d}.avi" for g in range(1, 26) for c in range(1, 5)]


def divided(how: str, names: list[str], rows=None) -> dict[str, str]:
    folder = Path("/videos")
    videos = [folder / name for name in names]
    values = {folder / name: row for name, row in (rows or {}).items()}
    captions = Captions("a table", dict.fromkeys(videos, "words"), (), values)
    division = divide(how, folder, videos, captions)
    found = {video.relative_to(folder).as_posix(): s for video, s in division.of.items()}
    return found | ({"refused": division.refused} if division.refused else {})


@pytest.mark.parametrize(
    ("name", "source"),
    [
        ("TaiChi/v_TaiChi_g01_c02", "TaiChi/v_TaiChi_g01"),
        ("holiday-Scene-003", "holiday"),
        ("trip clip 7", "trip"),
        ("abc.part2", "abc"),
        ("holiday", "holiday"),
        ("000123", "000123"),
        ("music2", "music2"),
    ],
)
def test_clips_of_one_video_have_its_name(name: str, source: str) -> None:
    assert source_of(name) == source


def test_a_share_never_divides_a_source_video(rng: random.Random) -> None:
    share = rng.uniform(0.05, 0.4)  # from 0.44 on, these are more than half of the clips
    found = divided(str(share), UCF)
    groups = {source_of(name[:-4]): set[str]() for name in UCF}
    for name, split in found.items():
        groups[source_of(name[:-4])].add(split)
    assert all(len(splits) == 1 for splits in groups.values())
    held = sum(splits == {"val"} for splits in groups.values())
    assert 1 <= held <= 25 * share + 5 * (25 * share * (1 - share)) ** 0.5


def test_a_share_stays_as_it_was_when_videos_are_added(rng: random.Random) -> None:
    names = [f"{n}.mp4" for n in range(400)]
    before = divided("0.1", rng.sample(names, 200))
    after = divided("0.1", names)
    assert all(after[name] == split for name, split in before.items())
    assert 15 < list(after.values()).count("val") < 75


@pytest.mark.parametrize("share", ["0.001", "0.999"])
def test_both_splits_have_a_video_however_few_there_are(share: str) -> None:
    assert sorted(divided(share, ["a.mp4", "b.mp4"]).values()) == ["train", "val"]


def test_a_list_like_ucf101s_is_understood(tmp_path: Path) -> None:
    held = UCF[::9]
    (tmp_path / "testlist01.txt").write_text("".join(f"{name} 3\r\n" for name in held) + "gone.avi")
    found = divided(str(tmp_path / "testlist01.txt"), UCF)
    assert found.pop("refused") == [
        ("listed, but no captioned video", f"testlist01.txt:{len(held) + 1}")
    ]
    assert [name for name, split in found.items() if split == "val"] == held


def test_a_column_is_understood_and_other_words_are_counted() -> None:
    words = {"a.mp4": "Train", "b.mp4": "test", "c.mp4": " validation ", "d.mp4": "extra"}
    rows = {name: {"video": name, "split": word} for name, word in words.items()}
    assert divided("Split", list(words), rows) == {
        "a.mp4": "train",
        "b.mp4": "val",
        "c.mp4": "val",
        "refused": [("Split neither train nor val", "d.mp4")],
    }


@pytest.mark.parametrize(
    ("how", "names", "says"),
    [
        ("5", ["a.mp4", "b.mp4"], "--val 5: a share must be between 0 and 1"),
        ("0.1", ["a.mp4"], "has 1 source video .* at least 2; add some"),
        ("0.1", ["x_c1.mp4", "x_c2.mp4"], "at least 2; names .* such as x_c1.mp4, .*: rename"),
        (
            "0.1",
            [*(f"my clip {i}.mp4" for i in range(9)), *(f"{i}.mp4" for i in range(40, 43))],
            r"--val 0.1 would hold out 9 of 12 clips; .* my clip 0.mp4, .* \(--val FILE\)",
        ),
        ("splt", ["a.mp4"], r"--val splt: neither a share, nor a file, nor a column .*split"),
        ("", ["a.mp4", "b.mp4"], "--val is empty; give a share, a file or a column"),
        ("split", ["a.mp4"], "leaves no captioned video of /videos for validation"),
    ],
)
def test_what_cannot_be_divided_is_refused(how: str, names: list[str], says: str) -> None:
    with pytest.raises(DataError, match=says):
        divided(how, names, {name: {"split": "train"} for name in names})


def test_too_few_captions_for_a_share_are_told_with_how_to_give_more() -> None:
    folder = Path("/videos")
    videos = [folder / name for name in ("a.mp4", "b.mp4", "c.mp4")]
    captions = Captions("a table", {videos[0]: "words"}, (), {})
    with pytest.raises(DataError) as raised:
        divide("0.1", folder, videos, captions)
    assert "has 1 source video with a caption" in str(raised.value)
    assert "2 other videos without; name a CSV or JSONL with --captions" in str(raised.value)


def test_a_share_that_leaves_nothing_usable_is_told_to_be_changed(tmp_path, make_video) -> None:
    folder, video = tmp_path / "videos" / "tai chi", make_video(8)
    folder.mkdir(parents=True)
    held, kept = "a.mp4", "b.mp4"
    if divided("0.99", [f"tai chi/{held}", f"tai chi/{kept}"])[f"tai chi/{held}"] == "train":
        held, kept = kept, held
    for broken, fix in ((kept, "try a smaller share"), (held, "try a larger share")):
        for name in (held, kept):
            (folder / name).write_bytes(b"garbage" if name == broken else video)
        with pytest.raises(DataError, match=f"1 with broken video; {fix} with --val"):
            pack(folder.parent, tmp_path / "out", val="0.99")


def test_pack_writes_a_folder_for_each_split(tmp_path: Path, make_video) -> None:
    folder = tmp_path / "videos"
    for number in range(12):
        path = folder / "tai_chi" / f"v{number // 2}_c{number % 2}.mp4"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(make_video(8 + number))
    (folder / "tai_chi" / "v9_c0.mp4").write_bytes(b"garbage")
    arguments = ["data", "pack", str(folder), str(tmp_path / "shards"), "--val", "0.3"]
    result = CliRunner().invoke(main, arguments)
    assert result.exit_code == 0, result.output
    keys = {
        split: {clip.key for clip in index_shards("*.tar", tmp_path / "shards" / split).clips}
        for split in ("train", "val")
    }
    assert len(keys["train"]) + len(keys["val"]) == 12
    assert not {source_of(key) for key in keys["train"]} & {source_of(key) for key in keys["val"]}
    for split, of_split in keys.items():
        assert f"{split}: {len(of_split)} clips in {tmp_path / 'shards' / split}" in result.output


def test_a_split_of_broken_videos_is_refused(tmp_path: Path, make_video, error_of) -> None:
    (tmp_path / "videos" / "c").mkdir(parents=True)
    (tmp_path / "videos" / "c" / "a.mp4").write_bytes(make_video())
    (tmp_path / "videos" / "c" / "b.mp4").write_bytes(b"garbage")
    (tmp_path / "held.txt").write_text("b\n")
    message = error_of(
        "data", "pack", tmp_path / "videos", tmp_path / "out", "--val", tmp_path / "held.txt"
    )
    assert "No video of the val split could be packed" in message
    assert "{" not in message
    assert not (tmp_path / "out").exists()
