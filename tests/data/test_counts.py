"""How many samples shards have: from an index, or from their headers, near or far."""

import json
import multiprocessing
import shutil
from pathlib import Path

import pytest
import webdataset

from nasvid.data import counts as counts_module
from nasvid.data.cache import ShardCache
from nasvid.data.counts import count_samples, shard_counts
from nasvid.data.errors import DataError
from nasvid.data.pack import pack
from nasvid.data.paths import shard_names
from nasvid.data.ranges import LEAST, SKIPPED
from nasvid.data.wids import INDEX, ShardCount, write_index

SAMPLES = [7, 1, 4, 9, 2]


@pytest.fixture
def cache(tmp_path) -> ShardCache:
    return ShardCache(tmp_path / "cache", retries=8, allow_pipes=True)


@pytest.fixture
def served(source, uneven, quick) -> list[str]:
    shutil.copytree(uneven, source.folder, dirs_exist_ok=True)
    return [f"{source.url}/{number:03d}.tar" for number in range(5)]


@pytest.mark.parametrize("way", ["file", "ranges", "whole", "pipe"])
def test_counts_are_learnt_from_headers_wherever_the_shards_are(served, source, uneven, cache, way):
    source.ranges = way != "whole"
    local = sorted(map(str, uneven.glob("*.tar")))
    names = {"file": local, "pipe": [f"pipe:cat {name}" for name in local]}.get(way, served)
    counts = shard_counts(names, cache=cache)
    assert [count.shard for count in counts] == names
    assert [count.samples for count in counts] == SAMPLES
    assert [count.bytes for count in counts] == [Path(path).stat().st_size for path in local]
    assert not cache.folder.exists()


@pytest.mark.parametrize("ranges", [True, False])
def test_a_server_that_fails_one_request_in_four_gives_the_same_counts(
    served, source, cache, ranges
):
    source.ranges = ranges
    source.fail = lambda number: (
        ["503", "reset", "short", "cut"][number // 4 % 4 - 1] if number % 4 == 0 else None
    )
    assert [count.samples for count in shard_counts(served, cache=cache)] == SAMPLES


def test_of_large_samples_only_the_headers_are_asked_for(source, write_tar, cache):
    names = [f"{n:02d}.{ending}" for n in range(20) for ending in ("mp4", "txt")]
    write_tar(source.folder / "a.tar", [(n, bytes(2 * SKIPPED * n.endswith("mp4"))) for n in names])
    (count,) = shard_counts([f"{source.url}/a.tar"], cache=cache)
    assert count.samples == 20
    assert source.sent <= 21 * LEAST


def test_of_small_samples_blocks_grow(source, write_tar, cache):
    write_tar(source.folder / "a.tar", [(f"{n:04d}.mp4", bytes(3000)) for n in range(2000)])
    (count,) = shard_counts([f"{source.url}/a.tar"], cache=cache)
    assert count.samples == 2000
    assert source.asked["a.tar"] < 15


def test_what_was_learnt_is_learnt_once(served, source, uneven, tmp_path, cache):
    kept = tmp_path / "counts.jsonl"
    local = tmp_path / "local.tar"
    shutil.copy(uneven / "000.tar", local)
    names = [*served, str(local)]
    first = shard_counts(names, cache=cache, kept=kept)
    asked = source.asked["000.tar"]
    with kept.open("a") as file:
        file.write('["half a line')
    shutil.copy(uneven / "003.tar", local)
    again = shard_counts(names, cache=cache, kept=kept)
    assert again[:5] == first[:5]
    assert (first[5].samples, again[5].samples) == (7, 9)
    assert source.asked["000.tar"] == asked
    assert shard_counts(names, cache=cache, kept=kept) == again


def test_many_shards_are_counted_by_several_processes(served, source, cache, monkeypatch):
    monkeypatch.setattr(counts_module, "TOGETHER", 1)
    monkeypatch.setattr(counts_module, "usable_cores", lambda: 3)
    (source.folder / "001.tar").unlink()
    counts = shard_counts(served, cache=cache, max_skipped=0.2)
    assert [count.samples for count in counts] == [7, 0, 4, 9, 2]
    assert multiprocessing.active_children() == []
    with pytest.raises(DataError, match=r"gone.tar does not exist any more"):
        list(counts_module._learnt(["a.tar", "b.tar", "c.tar", "d.tar", "gone.tar"][::-1], cache))


def test_shards_out_of_reach_are_counted_up_to_a_share(served, source, cache):
    (source.folder / "001.tar").unlink()
    counts = shard_counts(served, cache=cache, max_skipped=0.2)
    assert counts[1] == ShardCount(served[1], 0, fault="HTTP 404 Not Found", reached=False)
    assert [count.samples for count in counts] == [7, 0, 4, 9, 2]
    with pytest.raises(DataError, match=r"1 of 5 shards .*001.tar: HTTP 404"):
        shard_counts(served, cache=cache, max_skipped=0.1)


def test_damaged_shards_say_so(source, uneven, cache, tmp_path):
    whole = (uneven / "000.tar").read_bytes()
    (source.folder / "cut.tar").write_bytes(whole[: len(whole) // 2])
    (source.folder / "page.tar").write_bytes(b"<html>" + b" " * 600)
    names = [f"{source.url}/{name}.tar" for name in ("cut", "page")]
    cut, page = shard_counts(names, cache=cache)
    assert 0 < cut.samples < 7
    assert (cut.fault, cut.reached) == ("truncated shard", True)
    assert (page.samples, page.reached) == (0, False)
    assert "not a tar: it begins with '<html>" in page.fault
    with pytest.raises(DataError, match=r"page.tar is not a tar"):
        shard_counts([str(source.folder / "page.tar")], cache=cache)


def test_members_are_samples_as_webdataset_groups_them(tmp_path, write_tar):
    names = "a.mp4 a.txt d.x/b.c.mp4 d.x/b.txt none __meta__/c.txt .dot a.mp4"
    members = names.split()
    path = write_tar(tmp_path / "a.tar", [(name, b"x") for name in members])
    samples = list(webdataset.WebDataset(str(path), shardshuffle=False))
    assert count_samples(members) == len(samples) == 3


def test_a_packed_folder_has_an_index_that_saves_reading(source, tmp_path, make_video, cache):
    for name in ("x/a.mp4", "x/b.mp4", "x/c.mp4"):
        (tmp_path / "videos" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "videos" / name).write_bytes(make_video())
    pack(tmp_path / "videos", source.folder, shard_size=2)
    assert shard_names("source/*", tmp_path, "train") == tuple(
        str(source.folder / f"{n:06d}.tar") for n in range(2)
    )
    names = [f"{source.url}/{n:06d}.tar?signed=1" for n in range(2)]
    counts = shard_counts(names, cache=cache)
    assert [(count.samples, len(count.md5)) for count in counts] == [(2, 32), (1, 32)]
    assert source.asked == {INDEX: 1}
    index = json.loads((source.folder / INDEX).read_bytes())
    assert (index["__kind__"], index["wids_version"]) == ("wids-shard-index-v1", 1)
    assert [shard["url"] for shard in index["shardlist"]] == ["000000.tar", "000001.tar"]


def change(**entry):
    return lambda index: index["shardlist"][3].update(entry)


@pytest.mark.parametrize(
    ("wrong", "says"),
    [
        (change(nsamples=0.5), r"shardlist\[3\].nsamples is 0.5: .* integer"),
        (change(nsamples=-1), r"shardlist\[3\].nsamples is -1"),
        (change(nsamples="9"), r"shardlist\[3\].nsamples is \"9\""),
        (change(nsamples=10**12), r"shardlist\[3\].nsamples is 1000000000000: .* less than"),
        (change(url="other.tar"), "has no shard 003.tar"),
        (change(url="x/002.tar"), "has the shard 002.tar twice"),
        (change(filesize=5), r"003.tar has \d+ bytes, but 5 in .*shardindex.json"),
        (lambda index: index["shardlist"].clear(), r"shardlist is \[\]"),
        (lambda index: index.update(wids_version=2), "wids_version is 2"),
    ],
)
def test_a_wrong_index_is_one_error_that_says_where(uneven, tmp_path, cache, wrong, says):
    folder = shutil.copytree(uneven, tmp_path / "shards")
    names = sorted(map(str, folder.glob("*.tar")))
    write_index(folder, [ShardCount(f"{n:03d}.tar", count) for n, count in enumerate(SAMPLES)])
    assert [count.samples for count in shard_counts(names, cache=cache)] == SAMPLES
    index = json.loads((folder / INDEX).read_bytes())
    wrong(index)
    (folder / INDEX).write_text(json.dumps(index))
    with pytest.raises(DataError, match=says) as error:
        shard_counts(names, cache=cache)
    assert str(folder / INDEX) in str(error.value)
    (folder / INDEX).write_text("[")
    with pytest.raises(DataError, match="is not JSON"):
        shard_counts(names, cache=cache)
