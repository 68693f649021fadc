import itertools
import json
import multiprocessing
import os
import re
import signal
import sys
import time
from pathlib import Path

import pytest
from click.testing import CliRunner

from nasvid.cli.main import main
from nasvid.data.decode import decode, probe
from nasvid.data.errors import DataError
from nasvid.data.pack import pack
from nasvid.data.samples import read_video
from nasvid.data.shards import index_shards
from nasvid.data.wids import INDEX
from nasvid.errors import UserError
from nasvid.host.files import NotWritten
from nasvid.host.lock import locked
from nasvid.host.words import bytes_text

FORK = multiprocessing.get_context("fork")


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
    (root / "c/gone.mp4").symlink_to("nowhere")
    (root / "c/cut.mp4").write_bytes((root / "c/e.mp4").read_bytes()[:500])
    report = pack(root, tmp_path / "out")
    assert report.skipped == {"broken video": 3, "missing file": 1}
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


def test_progress_is_shown_unless_a_machine_reads_it(folder, tmp_path, monkeypatch):
    monkeypatch.setattr("nasvid.host.display.PLAIN_EVERY", 0)
    videos, said = folder(["a/1.mp4", "a/2.mp4"]), {}
    for option in ("--size=32", "--json"):
        out = str(tmp_path / option)
        result = CliRunner().invoke(main, ["data", "pack", str(videos), out, option])
        assert result.exit_code == 0, result.output
        said[option] = result.stdout
    assert re.search(r"^pack: 1/2  .* clips/s .* left$", said["--size=32"], re.MULTILINE)
    assert json.loads(said["--json"])["clips"]


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


def pack_until(count: int, root: Path, out: Path, **options) -> None:
    """Pack, and be killed before the file system is changed for the `count`-th time."""
    changes = itertools.count(1)

    def watch(event: str, args: tuple) -> None:
        if event == "open":
            event = "write" if args[2] & (os.O_WRONLY | os.O_RDWR) else "read"
        if event in ("write", "os.rename", "os.remove", "os.mkdir", "os.rmdir"):
            inside = event == "os.rmdir" or Path(str(args[0])).is_relative_to(out.parent)
            if inside and next(changes) == count:
                os.kill(os.getpid(), signal.SIGKILL)

    sys.addaudithook(watch)
    pack(root, out, **options)


def content_of(folder: Path) -> dict[str, bytes]:
    files = (path for path in folder.rglob("*") if path.is_file())
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in files}


@pytest.mark.slow
@pytest.mark.parametrize("there", [False, True])
def test_a_pack_killed_at_every_write_resumes_to_the_same_bytes(folder, tmp_path, there):
    """Each process gets one write further than the one before; every fifth has workers."""
    root = folder([f"{kind}/{n}.mp4" for kind in "ab" for n in range(5)])
    (root / "a/3.mp4").write_bytes(b"broken")
    options = {"val": "0.3", "shard_size": 2}
    report = pack(root, tmp_path / "one", workers=1, **options)
    expected = content_of(tmp_path / "one")
    out = tmp_path / "there" / "out"
    (out if there else out.parent).mkdir(parents=True)
    for count in itertools.count(1):
        options["workers"] = 3 if count % 5 == 0 else 1
        process = FORK.Process(target=pack_until, args=(count, root, out), kwargs=options)
        process.start()
        process.join()
        assert there or not out.exists() or content_of(out) == expected
        if process.exitcode != -signal.SIGKILL:  # 1 if the one before was killed at its very end
            break
    assert count > 15
    assert content_of(out) == expected
    assert report.clips == 9
    assert [path.name for path in out.parent.iterdir()] == ["out"]


@pytest.mark.slow
def test_a_killed_pack_keeps_what_is_whole_and_its_workers_end(folder, tmp_path, make_video):
    root = folder(["c/0.mp4"])
    for number in range(24):
        (root / f"c/{number}.mp4").write_bytes(make_video(width=96, height=64))
    out, options = tmp_path / "out", {"size": 32, "shard_size": 4}
    process = FORK.Process(target=pack, args=(root, out), kwargs={"workers": 2, **options})
    process.start()
    while len(list(tmp_path.glob(".out.packing/shards/*.tar"))) < 2:
        assert process.is_alive(), "the pack ended before it could be killed"
        time.sleep(0.005)
    process.kill()
    process.join()
    assert not out.exists()
    with pytest.raises(DataError, match="made from other videos, captions or options; repeat"):
        pack(root, out, workers=1, shard_size=20)
    command = f"data pack {root} {out} --size 32 --shard-size 4 --workers 1"
    result = CliRunner().invoke(main, command.split())
    assert re.search(
        r"^(4|8|12|16|20|24) clips of these had been packed before$", result.output, re.M
    )
    pack(root, tmp_path / "one", workers=1, **options)
    assert content_of(out) == content_of(tmp_path / "one")
    assert len(packed(out)) == 24
    assert not any(tmp_path.glob(".out.packing"))


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
    root, out = folder([f"c/{n}.mp4" for n in range(12)]), tmp_path / "out"
    answers = FORK.SimpleQueue()

    def attempt() -> None:
        try:
            answers.put(pack(root, out, workers=1).clips)
        except UserError as error:
            answers.put(str(error))

    both = [FORK.Process(target=attempt) for _ in range(2)]
    for process in both:
        process.start()
    clips, refused = sorted((answers.get() for _ in both), key=lambda answer: answer != 12)
    assert clips == len(packed(out)) == 12
    assert "is in use by process" in refused or "is not an empty folder" in refused
    for process in both:
        process.join()


def test_a_folder_that_is_being_packed_is_refused(folder, tmp_path):
    root = folder(["c/a.mp4"])
    with locked(tmp_path / ".out.packing"), pytest.raises(UserError, match="in use by process"):
        pack(root, tmp_path / "out")


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
