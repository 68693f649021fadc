import gzip
import json
import pickle
import shutil
import tarfile
import time
from pathlib import Path

import pytest

from nasvid.data.errors import ClipError, DataError
from nasvid.data.samples import read_video
from nasvid.data.shards import index_shards
from nasvid.data.tar import members

THREE = [
    ("a.mp4", b"video a"),
    ("a.txt", b"first clip"),
    ("b.txt", b"second clip"),
    ("b.webm", b"video b"),
    ("c.json", json.dumps({"caption": "third clip"}).encode()),
    ("c.avi", b"video c"),
]


@pytest.fixture
def index(tmp_path, write_tar):
    """Index one shard of the given members."""

    def make(files):
        write_tar(tmp_path / "s.tar", files)
        return index_shards("s.tar", tmp_path)

    return make


def captions(index):
    return {clip.key: clip.caption for clip in index.clips}


def test_samples_are_indexed_with_their_bytes(index):
    found = index(THREE)
    assert captions(found) == {"a": "first clip", "b": "second clip", "c": "third clip"}
    assert [read_video(clip) for clip in found.clips] == [b"video a", b"video b", b"video c"]
    assert (found.skipped, found.ignored) == ((), 0)


@pytest.mark.parametrize(
    ("files", "reason"),
    [
        ([("x.mp4", b"v")], "no caption"),
        ([("x.mp4", b"v"), ("x.txt", b" \n")], "no caption"),
        ([("x.mp4", b"v"), ("x.json", b'{"source": "a film"}')], "no caption"),
        ([("x.mp4", b"v"), ("x.json", b"[1]")], "no caption"),
        ([("x.txt", b"words")], "no video"),
        ([("x.mp4", b""), ("x.txt", b"words")], "broken video"),
        ([("x.mp4", b"v"), ("x.txt", b"\xff\xfe")], "undecodable caption"),
        ([("x.mp4", b"v"), ("x.txt", b"word " * 20_000)], "undecodable caption"),
        ([("x.mp4", b"v"), ("x.json", b"{")], "undecodable caption"),
        ([("x.mp4", b"v"), ("x.json", b"[" * 60_000)], "undecodable caption"),
        ([("x.mp4", b"v"), ("x.json", b'{"caption": "\\ud800"}')], "undecodable caption"),
        (
            [("x.mp4", b"v"), ("x.webm", b"v"), ("x.txt", b"words")],
            "several videos or captions under one key",
        ),
        (
            [("x.01.mp4", b"v"), ("x.01.txt", b"1"), ("x.02.mp4", b"v"), ("x.02.txt", b"2")],
            "several videos or captions under one key",
        ),
    ],
)
def test_an_unusable_sample_is_skipped_alone(index, files, reason):
    found = index(THREE[:2] + files + THREE[2:])
    assert [(skip.key, skip.reason) for skip in found.skipped] == [("x", reason)]
    assert list(captions(found)) == ["a", "b", "c"]
    assert found.reasons() == {reason: 1}


def test_a_text_caption_goes_before_json_and_becomes_one_line(index):
    found = index([("x.mp4", b"v"), ("x.json", b'{"caption": "json"}'), ("x.txt", b"two\n lines ")])
    assert captions(found) == {"x": "two lines"}


def test_a_shard_cut_anywhere_loses_what_is_behind_the_cut_and_says_so(tmp_path, write_tar):
    whole = write_tar(tmp_path / "whole.tar", THREE)
    content = whole.read_bytes()
    complete = [clip.key for clip in index_shards("whole.tar", tmp_path).clips]
    with whole.open("rb") as file:
        end = max(-(-(member.offset + member.size) // 512) * 512 for member in members(file))
    for cut in sorted({*range(0, end + 1, 512), *range(100, end, 512)}):
        (tmp_path / "cut.tar").write_bytes(content[:cut])
        found = index_shards("cut.tar", tmp_path)
        keys = [clip.key for clip in found.clips]
        assert keys == complete[: len(keys)]
        assert found.reasons() == {"truncated shard": 1}
        assert all(read_video(clip) for clip in found.clips)
    assert keys == complete
    (tmp_path / "cut.tar").write_bytes(content[: end + 512])
    assert index_shards("cut.tar", tmp_path).skipped == ()


def test_one_bad_shard_takes_no_other_with_it(tmp_path, write_tar):
    write_tar(tmp_path / "good.tar", THREE)
    (tmp_path / "bad.tar").write_bytes(b"this is no tar at all" * 100)
    found = index_shards("*.tar", tmp_path)
    assert len(found.clips) == 3
    assert found.reasons() == {"not a tar": 1}


class Bomb:
    """Writes a file when it is unpickled."""

    def __init__(self, marker: Path) -> None:
        self.marker = marker

    def __reduce__(self):
        return Path.touch, (self.marker,)


def test_members_that_carry_code_are_counted_and_never_run(tmp_path, index):
    marker = tmp_path / "was-run"
    bomb = pickle.dumps(Bomb(marker))
    names = ["a.pyd", "a.pth", "a.pkl", "a.mp4.pyd.gz", "z.pyd", "__init__.py"]
    found = index(THREE + [(n, gzip.compress(bomb) if n.endswith("gz") else bomb) for n in names])
    assert found.ignored == len(names)
    assert list(captions(found)) == ["a", "b", "c"]
    assert found.skipped == ()
    assert not marker.exists()
    pickle.loads(bomb)
    assert marker.exists(), "the bomb itself must work, or this test shows nothing"


def test_keys_in_folders_stay_apart(index):
    files = [(f"{folder}/{name}", body) for folder in ("x", "y.z") for name, body in THREE[:2]]
    assert list(captions(index(files))) == ["x/a", "y.z/a"]


def test_the_fingerprint_follows_the_content_not_the_place(tmp_path, write_tar):
    write_tar(tmp_path / "1" / "s.tar", THREE)
    shutil.copytree(tmp_path / "1", tmp_path / "2")
    write_tar(tmp_path / "3" / "s.tar", [*THREE[:-1], ("c.avi", b"video c" * 9999)])
    write_tar(tmp_path / "4" / "s.tar", [*THREE[:-2], ("c.txt", b"another"), THREE[-1]])
    prints = [index_shards("s.tar", tmp_path / str(n)).fingerprint for n in (1, 2, 3, 4)]
    assert prints[0] == prints[1]
    assert len({*prints}) == 3


def test_a_shard_that_changed_since_is_an_error_of_the_clip(tmp_path, index):
    clip = index(THREE).clips[-1]
    shard = tmp_path / "s.tar"
    shard.write_bytes(shard.read_bytes()[: clip.video[0] + 2])
    with pytest.raises(ClipError, match="truncated shard"):
        read_video(clip)
    shard.unlink()
    with pytest.raises(ClipError, match="missing shard"):
        read_video(clip)


def test_an_error_of_the_disk_is_no_fault_of_a_clip(tmp_path, index):
    """The system gives `Input/output error` where a process's memory has no page."""
    clip = index(THREE).clips[0]
    shard = tmp_path / "s.tar"
    shard.unlink()
    shard.symlink_to("/proc/self/mem")
    said = rf"{shard} cannot be read: Input/output error; run the same command again once it can"
    with pytest.raises(DataError, match=said):
        read_video(clip)
    with pytest.raises(DataError, match=said):
        index_shards("s.tar", tmp_path)


def test_512_samples_are_indexed_in_a_moment(tmp_path, write_tar):
    files = [
        (f"{n:05d}.{ending}", body)
        for n in range(512)
        for ending, body in [("mp4", b"v" * 3000), ("txt", b"words"), ("json", b"{}")]
    ]
    write_tar(tmp_path / "s.tar", files, tarfile.PAX_FORMAT)

    def seconds() -> float:
        started = time.perf_counter()
        assert len(index_shards("s.tar", tmp_path).clips) == 512
        return time.perf_counter() - started

    assert any(seconds() < 0.2 for _ in range(10)), "a busy machine is slow most times, not always"


@pytest.mark.parametrize(
    ("spec", "names"),
    [
        ("clips-{08..11}.tar", ["clips-08", "clips-09", "clips-10", "clips-11"]),
        ("clips-*.tar", ["clips-08", "clips-09", "clips-10", "clips-11"]),
        ("../here/clips-0*.tar", ["clips-08", "clips-09"]),
        (["clips-1*.tar", "clips-10.tar", "clips-08.tar"], ["clips-10", "clips-11", "clips-08"]),
    ],
)
def test_patterns_name_shards_in_order_and_once(tmp_path, write_tar, spec, names):
    base = tmp_path / "here"
    for number in range(8, 12):
        write_tar(base / f"clips-{number:02d}.tar", THREE)
    assert [Path(shard).stem for shard in index_shards(spec, base).shards] == names


@pytest.mark.parametrize(
    ("spec", "says"),
    [
        (
            "clips-{00..02}.tar",
            r"clips-01\.tar .*\(from .*the nearest file is .*-00\.tar",
        ),
        ("clip-00.tar", r"clip-00\.tar .*; the nearest file is .*clips-00\.tar"),
        ("other/*.tar", r"No shard matches .*other/\*\.tar; the nearest file is .*clips-00\.tar"),
        ("empty/*.tar", "holds no .tar"),
        (".", r"is a folder; .*\*\.tar"),
        ("clips.tar.gz", "is compressed"),
        ([], "No shards are named"),
        ("embedded:films", "films"),
    ],
)
def test_what_is_not_there_is_named_with_what_is(tmp_path, write_tar, spec, says):
    write_tar(tmp_path / "clips-00.tar", THREE)
    (tmp_path / "empty").mkdir()
    (tmp_path / "clips.tar.gz").write_bytes(b"")
    with pytest.raises(DataError, match=says):
        index_shards(spec, tmp_path)
