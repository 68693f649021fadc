import json
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from nasvid.data.decode import decode, probe
from nasvid.data.errors import DataError
from nasvid.data.pack import pack
from nasvid.data.samples import read_video
from nasvid.data.shards import index_shards
from nasvid.data.wids import INDEX
from nasvid.host.files import NotWritten
from nasvid.host.words import bytes_text


@pytest.fixture
def folder(tmp_path, make_video):
    """Make a folder of videos, each of another length, and of texts."""

    def make(videos, texts=None) -> Path:
        root = tmp_path / "videos"
        for number, name in enumerate(videos):
            path = root / name
            path.parent.mkdir(parents=True, exist_ok=True)
            avi = path.suffix == ".avi"
            path.write_bytes(
                make_video(8 + number, container="avi", codec="mpeg4")
                if avi
                else make_video(8 + number)
            )
        for name, text in (texts or {}).items():
            (root / name).write_text(text)
        return root

    return make


def packed(out: Path) -> dict[str, str]:
    return {clip.key: clip.caption for clip in index_shards("*.tar", out).clips}


def test_class_folders_become_captions_as_in_ucf101(folder, tmp_path):
    root = folder(
        [
            "ApplyEyeMakeup/v_ApplyEyeMakeup_g01_c01.avi",
            "TaiChi/v_TaiChi_g01_c01.avi",
            "playing_guitar/a.mp4",
        ]
    )
    report = pack(root, tmp_path / "out")
    assert report.layout == "names of class folders"
    assert packed(tmp_path / "out") == {
        "ApplyEyeMakeup_v_ApplyEyeMakeup_g01_c01": "apply eye makeup",
        "TaiChi_v_TaiChi_g01_c01": "tai chi",
        "playing_guitar_a": "playing guitar",
    }


def test_a_webvid_table_is_matched_by_id_and_page(folder, tmp_path):
    root = folder(
        ["000001_000050/1066.mp4", "000001_000050/77.mp4", "000051_000100/77.mp4", "9.mp4"],
        {
            "results.csv": "videoid,contentUrl,duration,page_dir,name\n"
            "1066,https://x/1,PT00H00M16S,000001_000050,A woman walks\n"
            "77,https://x/2,PT00H00M16S,000001_000050,First of two\n"
            '77,https://x/3,PT00H00M16S,000051_000100,"Second, of two"\n'
            "5,https://x/4,PT00H00M16S,000051_000100,Not downloaded\n"
        },
    )
    report = pack(root, tmp_path / "out")
    assert report.layout == "results.csv, videoid and name"
    assert list(packed(tmp_path / "out").values()) == [
        "A woman walks",
        "First of two",
        "Second, of two",
    ]
    assert report.skipped == {"no video file": 1, "no caption": 1}
    assert report.examples == {"no video file": "5", "no caption": "9.mp4"}


@pytest.mark.parametrize("column", ["path", "video", "file"])
@pytest.mark.parametrize("name", ["sub/one.mp4", "sub/one", "one.mp4", "one"])
def test_a_table_may_name_files_by_path_or_by_name(folder, tmp_path, column, name):
    root = folder(["sub/one.mp4", "two.mp4"])
    table = tmp_path / "elsewhere.jsonl"
    rows = [{column: name, "caption": " a\nb "}, {column: "two.mp4", "text": "none"}]
    table.write_text("".join(json.dumps(row) + "\n" for row in rows))
    pack(root, tmp_path / "out", captions=table)
    assert packed(tmp_path / "out") == {"sub_one": "a b"}


def test_a_name_that_two_files_have_is_nobodys(folder, tmp_path):
    root = folder(["a/same.mp4", "b/same.mp4", "c.mp4"], {"t.csv": "file,text\nsame,x\nc,y\n"})
    report = pack(root, tmp_path / "out")
    assert packed(tmp_path / "out") == {"c": "y"}
    assert report.skipped == {"no caption": 2, "no video file": 1}


def test_text_files_beside_the_videos(folder, tmp_path):
    root = folder(["x/a.mp4", "x/b.mp4"], {"x/a.txt": "what is seen\n"})
    report = pack(root, tmp_path / "out")
    assert report.layout == "text files next to the videos"
    assert packed(tmp_path / "out") == {"x_a": "what is seen"}
    assert report.skipped == {"no caption": 1}


def test_a_table_that_is_given_goes_before_everything_else(folder, tmp_path):
    root = folder(["c/a.mp4"], {"c/a.txt": "beside", "t.csv": "file,text\na,in the folder\n"})
    assert packed_with(root, tmp_path / "1") == "beside"
    (root / "c/a.txt").unlink()
    assert packed_with(root, tmp_path / "2") == "in the folder"
    (root / "t.csv").rename(tmp_path / "t.csv")
    assert packed_with(root, tmp_path / "3") == "c"
    assert packed_with(root, tmp_path / "4", captions=tmp_path / "t.csv") == "in the folder"


def packed_with(root: Path, out: Path, **options) -> str:
    pack(root, out, **options)
    (caption,) = packed(out).values()
    return caption


def test_dots_in_names_do_not_merge_samples(folder, tmp_path):
    root = folder(["c/vid.0001.mp4", "c/vid.0002.mp4", "c/vid_0001.mp4", "c/vid.0001.avi"])
    report = pack(root, tmp_path / "out")
    index = index_shards("*.tar", tmp_path / "out")
    assert report.clips == len(index.clips) == len({clip.key for clip in index.clips}) == 4
    assert index.skipped == ()
    originals = {path.read_bytes() for path in root.rglob("*.*") if path.is_file()}
    assert {read_video(clip) for clip in index.clips} == originals


def test_broken_videos_are_left_out_and_counted(folder, tmp_path):
    root = folder(["c/a.mp4", "c/b.mp4", "c/e.mp4"])
    (root / "c/b.mp4").write_bytes(b"garbage")
    (root / "c/empty.mp4").touch()
    (root / "c/cut.mp4").write_bytes((root / "c/e.mp4").read_bytes()[:500])
    report = pack(root, tmp_path / "out")
    assert report.skipped == {"broken video": 3}
    assert list(packed(tmp_path / "out")) == ["c_a", "c_e"]


def test_size_makes_large_videos_smaller_and_leaves_small_ones_alone(tmp_path, make_video):
    root = tmp_path / "videos" / "c"
    root.mkdir(parents=True)
    wide, small = make_video(20, 25, width=96, height=64), make_video(width=32, height=32)
    (root / "wide.mp4").write_bytes(wide)
    (root / "small.mp4").write_bytes(small)
    pack(root.parent, tmp_path / "out", size=32)
    by_key = {c.key: read_video(c) for c in index_shards("*.tar", tmp_path / "out").clips}
    assert by_key["c_small"] == small
    info = probe(by_key["c_wide"])
    assert (info.width, info.height, info.frames, info.fps) == (48, 32, 20, pytest.approx(25))
    before = decode(wide, frames=20, fps=25, height=32, width=32).frames.mean(axis=(1, 2, 3))
    after = decode(by_key["c_wide"], frames=20, fps=25, height=32, width=32).frames
    assert abs(after.mean(axis=(1, 2, 3)) - before).max() < 3


@pytest.mark.slow
def test_the_same_folder_gives_the_same_bytes_in_shards_of_the_size_asked(folder, tmp_path):
    root = folder([f"c/{n}.mp4" for n in range(7)])
    for out in ("one", "two"):
        report = pack(root, tmp_path / out, shard_size=3, size=16)
        assert (report.shards, report.clips) == (3, 7)
        time.sleep(1.1 if out == "one" else 0)
    names = [f"{n:06d}.tar" for n in range(3)]
    assert sorted(path.name for path in (tmp_path / "one").iterdir()) == [*names, INDEX]
    for name in (*names, INDEX):
        assert (tmp_path / "one" / name).read_bytes() == (tmp_path / "two" / name).read_bytes()
    assert report.bytes == sum(path.stat().st_size for path in (tmp_path / "two").glob("*.tar"))


@pytest.mark.parametrize(
    ("texts", "says"),
    [
        ({}, "holds no captions; name a CSV or JSONL"),
        ({"a.csv": "x,y\n1,2\n"}, r"a\.csv has the columns x, y; .* caption or text"),
        ({"a.csv": "path,y\n1,2\n"}, r"has the columns path, y; .* caption or text or prompt"),
        ({"a.csv": "path,text\n"}, "has no rows"),
        ({"a.jsonl": '{"path": "v", "text": "t"}\nhello\n'}, r"a\.jsonl:2: not JSON"),
        ({"a.csv": "", "b.jsonl": ""}, r"several tables \(a\.csv, b\.jsonl\)"),
        ({"a.csv": "path,text\nother,t\n"}, "No video could be packed"),
    ],
)
def test_what_is_wrong_with_the_captions_is_said(folder, tmp_path, texts, says):
    root = folder(["v.mp4"], texts)
    with pytest.raises(DataError, match=says):
        pack(root, tmp_path / "out")
    assert list(tmp_path.iterdir()) == [root]


def test_nothing_is_overwritten_and_nothing_is_made_of_nothing(folder, tmp_path):
    root = folder(["c/v.mp4"])
    with pytest.raises(DataError, match="is not an empty folder"):
        pack(root, root)
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match="holds no videos"):
        pack(tmp_path / "empty", tmp_path / "out")
    with pytest.raises(DataError, match="is not a folder"):
        pack(tmp_path / "absent", tmp_path / "out")
    with pytest.raises(DataError, match="size 33: must be even and at least 16"):
        pack(root, tmp_path / "out", size=33)
    pack(root, tmp_path / "empty")
    assert packed(tmp_path / "empty") == {"c_v": "c"}


@pytest.mark.slow
def test_a_killed_pack_leaves_nothing_that_looks_whole(folder, tmp_path, make_video):
    root = folder(["c/0.mp4"])
    for number in range(200):
        (root / f"c/{number}.mp4").write_bytes(make_video(width=96, height=64))
    out = tmp_path / "out"
    code = (
        "from pathlib import Path; from nasvid.data.pack import pack; "
        f"pack(Path({str(root)!r}), Path({str(out)!r}), size=32, shard_size=20)"
    )
    process = subprocess.Popen([sys.executable, "-c", code])
    while not any(tmp_path.glob(".out.partial.*/000002.tar")):
        assert process.poll() is None, "the pack ended before it could be killed"
        time.sleep(0.005)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert not out.exists()
    report = pack(root, out, shard_size=20)
    assert report.clips == len(packed(out)) == 200
    assert not any(tmp_path.glob(".out.partial*"))


def test_what_is_no_video_here_is_counted_and_what_others_made_is_left_alone(folder, tmp_path):
    root = folder(["c/a.mp4", "c/.Trash-0/x.mp4", "c/@eaDir/x.mp4", "__MACOSX/x.mp4", "c/._a.mp4"])
    (root / "c/phone.M4V").write_bytes((root / "c/a.mp4").read_bytes())
    (root / "c/old.wmv").write_bytes(b"x")
    (root / "c/old.mpg").write_bytes(b"x")
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    (elsewhere / "linked.mp4").write_bytes((root / "c/a.mp4").read_bytes())
    (root / "d").symlink_to(elsewhere)
    (elsewhere / "back").symlink_to(root)
    report = pack(root, tmp_path / "out")
    assert set(packed(tmp_path / "out")) == {"c_a", "c_phone", "d_linked"}
    assert report.skipped == {"unsupported container .mpg": 1, "unsupported container .wmv": 1}
    assert report.captions == {"c/a.mp4": "c", "c/phone.M4V": "c", "d/linked.mp4": "d"}


@pytest.mark.parametrize("kind", ["current folder", "link", "empty folder"])
def test_shards_go_into_a_folder_that_cannot_be_replaced(folder, tmp_path, monkeypatch, kind):
    root, out = folder(["c/a.mp4"]), tmp_path / "out"
    real = tmp_path / "real"
    real.mkdir()
    if kind == "link":
        out.symlink_to(real)
    elif kind == "current folder":
        monkeypatch.chdir(real)
        out = Path()
    else:
        out = real
    before = real.stat().st_ino
    pack(root, out)
    assert sorted(path.name for path in real.iterdir()) == ["000000.tar", INDEX]
    assert real.stat().st_ino == before


@pytest.mark.slow
def test_two_packs_at_once_do_not_take_each_others_work(folder, tmp_path):
    root = folder([f"c/{n}.mp4" for n in range(30)])
    code = (
        "from pathlib import Path; from nasvid.data.pack import pack; "
        f"print(pack(Path({str(root)!r}), Path({str(tmp_path / 'out')!r}), size=16).clips)"
    )
    both = [
        subprocess.Popen(
            [sys.executable, "-c", code], stdout=subprocess.PIPE, stderr=subprocess.PIPE
        )
        for _ in range(2)
    ]
    ended = [(*process.communicate(), process.returncode) for process in both]
    (first, _, _), (_, refused, code) = sorted(ended, key=lambda each: each[2])
    assert first.strip() == b"30"
    assert code == 1, "the second was not refused"
    assert b"DataError" in refused
    assert len(packed(tmp_path / "out")) == 30


def test_a_full_disk_leaves_nothing_and_takes_the_shards_later(folder, tmp_path, mounted):
    root = folder([f"a dog/{number}.mp4" for number in range(12)])
    disk = mounted("size=256k")
    (disk / "other").write_bytes(bytes(240_000))
    size = sum(path.stat().st_size for path in root.rglob("*.mp4"))
    with pytest.raises(NotWritten) as refused:
        pack(root, disk / "out", shard_size=5)
    assert str(refused.value).startswith(f"{disk / 'out'} cannot be written: No space left")
    assert str(refused.value).endswith(f"and about {bytes_text(size)} are needed")
    assert [path.name for path in disk.iterdir()] == ["other"]
    (disk / "other").unlink()
    pack(root, disk / "out", shard_size=5)
    pack(root, tmp_path / "out", shard_size=5)
    for path in (tmp_path / "out").iterdir():
        assert (disk / "out" / path.name).read_bytes() == path.read_bytes()
