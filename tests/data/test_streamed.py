"""Streamed shards: the same batches for all ranks and workers, on little disk, from any source."""

import io
import json
import os
import random
import shutil
import signal
import tarfile
import threading
import time
import tracemalloc
from collections import Counter

import numpy as np
import pytest
import webdataset

from nasvid.data import cache as caches
from nasvid.data import room
from nasvid.data.cache import ShardCache
from nasvid.data.cancel import Flag
from nasvid.data.errors import ClipError, DataError
from nasvid.data.loader import BatchRequest, Cutting, load_batches
from nasvid.data.members import Contents, read_content
from nasvid.data.order import Order
from nasvid.data.room import NoRoomError, Room, let_go
from nasvid.data.stored_counts import stored_counts
from nasvid.data.streamed import StreamedShards
from nasvid.distributed.signals import stop_requests, waiting
from nasvid.shapes import Resolution

COUNTS = np.array((7, 1, 4, 9, 2))
CLIPS = int(COUNTS.sum())
BATCH = 6
WRONGS = ("503", "reset", "short", "cut")


@pytest.fixture(autouse=True)
def served(source, uneven, quick) -> None:
    shutil.copytree(uneven, source.folder, dirs_exist_ok=True)


@pytest.fixture
def files(uneven, tmp_path) -> StreamedShards:
    """Shards on this machine."""
    return shards_in(str(uneven), tmp_path / "unused")


@pytest.fixture
def remote(source, tmp_path) -> StreamedShards:
    return shards_in(source.url, tmp_path / "kept")


def shards_in(where: str, folder, *, counts=COUNTS, limit=None) -> StreamedShards:
    names = [f"{where}/{n:03d}.tar" for n in range(len(counts))]
    return StreamedShards(names, np.array(counts), 2, ShardCache(folder, 5, limit=limit))


def forty(source) -> None:
    """Serve 40 shards of 2 clips."""
    content = (source.folder / "004.tar").read_bytes()
    for shard in range(40):
        (source.folder / f"{shard:03d}.tar").write_bytes(content)


def share(size: int, rank: int, ranks: int) -> range:
    return range(rank * size // ranks, (rank + 1) * size // ranks)


def batches(data, *, workers=0, rank=0, ranks=1, first=0, end=2 * CLIPS, frames=4):
    """Return a rank's part of the batches of two epochs, from a sample on."""
    requests = []
    for start in range(first, end, BATCH):
        whole = range(start, min(start + BATCH, end))
        own = share(len(whole), rank, ranks)
        at = Resolution(16, 16)
        requests.append(BatchRequest(start, at, start + own.start, len(own), whole))
    cutting = Cutting(frames=frames, fps=8, flip=False, train=True)
    return list(load_batches(data, requests, cutting=cutting, seed=1, workers=workers))


def together(data, *, ranks: int, workers=0, first=0, end=2 * CLIPS) -> list[list[str]]:
    """Return the keys of the global batches."""
    shares = [
        batches(data, workers=workers, rank=rank, ranks=ranks, first=first, end=end)
        for rank in range(ranks)
    ]
    return [[key for batch in step for key in batch.keys] for step in zip(*shares, strict=True)]


@pytest.mark.slow
@pytest.mark.parametrize("workers", [0, 1, 3])
def test_any_number_of_ranks_and_workers_reads_the_same_batches(files, workers):
    end = CLIPS if workers else 2 * CLIPS
    whole = together(files, ranks=1, workers=workers, end=end)
    keys = [key for batch in whole for key in batch]
    assert set(Counter(keys[: CLIPS - CLIPS % BATCH]).values()) == {1}
    assert set(Counter(keys).values()) == {end // CLIPS}
    assert len(keys) == end
    for ranks in (2, 3, 4):
        assert together(files, ranks=ranks, workers=workers, end=end) == whole


def test_all_ranks_and_workers_agree_with_the_order_itself(files, uneven):
    before = [path.stat() for path in sorted(uneven.iterdir())]
    order = Order(COUNTS, 1, 2)
    read = [key for batch in batches(files) for key in batch.keys]
    places = [
        order.place(n)
        for start in range(0, 2 * CLIPS, BATCH)
        for n in order.by_stream(start, min(BATCH, 2 * CLIPS - start))
    ]
    assert read == [f"{place.shard:02d}-{place.number:02d}" for place in places]
    after = [path.stat() for path in sorted(uneven.iterdir())]
    assert [each.st_mtime_ns for each in after] == [each.st_mtime_ns for each in before]


def test_a_run_resumes_on_other_ranks_and_fetches_the_windows_that_it_reads(source, tmp_path):
    counts = [2] * 40
    forty(source)
    whole = together(shards_in(source.url, tmp_path / "a", counts=counts), ranks=1, end=78)
    source.asked.clear()
    data = shards_in(source.url, tmp_path / "b", counts=counts)
    assert together(data, ranks=3, first=60, end=78) == whole[10:]
    order = Order(data.counts, 1, 2)
    windows = [order.window_of(n) for n in range(60, 78)]
    windows += [order.after(window) for window in windows]
    assert {int(name[:3]) for name in source.asked} <= {n for w in windows for n in w.shards}
    assert len(source.asked) < 40


def test_a_source_that_fails_one_request_in_five_gives_the_same_as_files(source, remote, files):
    rng = random.Random(4)
    source.fail = lambda number: rng.choice(WRONGS) if rng.random() < 0.2 else None
    found = batches(remote)
    assert [batch.keys for batch in found] == [batch.keys for batch in batches(files)]
    assert not any(batch.skipped for batch in found)


def test_the_samples_of_a_vanished_shard_are_replaced_alike_by_all(source, remote, tmp_path):
    (source.folder / "003.tar").unlink()
    found = together(remote, ranks=1)
    skipped = [skip for batch in batches(remote) for skip in batch.skipped]
    assert {(skip.shard, skip.reason) for skip in skipped} == {
        (f"{source.url}/003.tar", "unreachable shard")
    }
    assert {skip.key for skip in skipped} == {f"#{n}" for n in range(9)}
    assert together(remote, ranks=2) == found
    keys = [key for batch in found for key in batch]
    assert {key for key in keys if not key.startswith("03")} == set(keys)
    assert Counter(keys).keys() >= {"00-06", "01-00", "02-03", "04-01"}
    assert source.asked["003.tar"] == 1


def test_a_truncated_shard_gives_what_is_whole_of_it(source, remote):
    whole = (source.folder / "003.tar").read_bytes()
    (source.folder / "003.tar").write_bytes(whole[: len(whole) // 2])
    found = batches(remote)
    skipped = {(skip.key, skip.reason) for batch in found for skip in batch.skipped}
    assert {reason for _, reason in skipped} == {"truncated shard"}
    keys = {key for batch in found for key in batch.keys}
    assert 0 < len([key for key in keys if key.startswith("03")]) < 9
    assert len(keys) + len(skipped) == CLIPS


def test_the_next_windows_are_fetched_while_this_one_is_read(source, tmp_path):
    forty(source)
    data = shards_in(source.url, tmp_path / "kept", counts=[2] * 40)
    request = BatchRequest(0, Resolution(16, 16), 0, 8)
    loaded = load_batches(
        data,
        [request, request],
        seed=1,
        workers=0,
        cutting=Cutting(frames=4, fps=8, flip=False, train=True),
    )
    next(loaded)
    order = Order(data.counts, 1, 2)
    ahead = {n for s in range(8) for n in order.after(order.window_of(s)).shards}
    deadline = time.monotonic() + 60
    while not {f"{n:03d}.tar" for n in ahead} <= set(source.asked):
        assert time.monotonic() < deadline, "what is needed next is fetched only when it is read"
        time.sleep(0.02)
    loaded.close()


@pytest.fixture
def watched(monkeypatch) -> list[int]:
    """Return the bytes of the folder's shards after each time that room was made."""
    sizes: list[int] = []
    truncate = os.truncate

    def watch(path, size):
        truncate(path, size)  # while no other thread or process makes room
        files = {
            room.UNFINISHED.sub(r"\1", path.name): stat.st_size
            for path, stat in room._files(path.parent).items()
        }
        sizes.append(sum(files.values()))

    monkeypatch.setattr(os, "truncate", watch)
    return sizes


@pytest.mark.slow
@pytest.mark.parametrize("workers", [0, 2])
def test_the_disk_is_bounded_and_the_batches_are_the_same(source, tmp_path, watched, workers):
    content = (source.folder / "002.tar").read_bytes()
    for shard in range(48):
        (source.folder / f"{shard:03d}.tar").write_bytes(content)
    limit = 33 * len(content)  # two windows of each stream, and a little
    free = shards_in(source.url, tmp_path / "free", counts=[4] * 48)
    data = shards_in(source.url, tmp_path / "kept", counts=[4] * 48, limit=limit)
    expected = [batch.keys for batch in batches(free, end=186)]
    assert [batch.keys for batch in batches(data, end=186, workers=workers)] == expected
    kept = sum(path.stat().st_size for path in (tmp_path / "kept").glob("*.tar"))
    assert len(content) < kept <= limit
    assert max(watched, default=0) <= limit
    assert len(list((tmp_path / "free").glob("*.tar"))) > 40


def test_a_shard_in_use_is_not_removed_and_no_room_is_said(source, tmp_path, monkeypatch):
    monkeypatch.setattr(caches, "ROOM_WAIT", 0.2)
    size = (source.folder / "003.tar").stat().st_size
    cache = ShardCache(tmp_path / "kept", limit=size + size // 4)
    names = [f"{source.url}/{n:03d}.tar" for n in range(5)]
    held = cache.hold(names[3])
    with pytest.raises(DataError, match=r"000.tar does not fit into .*raise data.cache_limit"):
        cache.hold(names[0])
    assert cache.place(names[3]).exists()
    let_go(held)
    let_go(cache.hold(names[0]))
    assert not cache.place(names[3]).exists()


def test_what_is_being_fetched_is_not_taken_for_the_disk_s_free_space(mounted):
    disk = mounted("size=256k")
    first, second = disk / ".a.tar.1.unfinished", disk / ".b.tar.1.unfinished"
    for path in (first, second):
        path.touch()
    Room(disk, limit=10**9, removes=False).grow(first, 200_000, Flag())  # nothing is written yet
    with pytest.raises(NoRoomError, match="200000 bytes are in use") as said:
        Room(disk, limit=10**9, removes=False).grow(second, 200_000, Flag())
    assert said.value.of_disk
    with pytest.raises(NoRoomError) as said:
        Room(disk, limit=300_000, removes=False).grow(second, 200_000, Flag())
    assert said.value.of_disk
    with pytest.raises(NoRoomError) as said:
        Room(disk, limit=220_000, removes=False).grow(second, 30_000, Flag())
    assert not said.value.of_disk


def test_a_full_disk_is_not_taken_for_a_limit(source, mounted, monkeypatch):
    monkeypatch.setattr(caches, "ROOM_WAIT", 0.2)
    with pytest.raises(DataError, match=r"000.tar does not fit into .*; its disk is full: free"):
        ShardCache(mounted("size=4k"), limit=10**9).hold(f"{source.url}/000.tar")


@pytest.mark.parametrize("workers", [0, 2])
def test_a_signal_ends_waiting_for_a_server_that_hangs(remote, source, children, workers):
    goes_on = threading.Event()
    source.fail = lambda number: str(goes_on.wait(30))
    began = time.monotonic()
    with stop_requests(quiet=True) as stop:
        threading.Timer(0.5, os.kill, (os.getpid(), signal.SIGTERM)).start()
        with waiting():
            batches(remote, workers=workers)
            pytest.fail("The server did not hang")
        assert stop() == signal.SIGTERM
    assert time.monotonic() - began < 10
    assert not children()
    goes_on.set()


def test_only_what_is_needed_is_removed_and_that_is_what_was_used_first(source, tmp_path):
    cache = ShardCache(tmp_path / "kept", limit=2_000_000)
    names = [f"{source.url}/{n:03d}.tar" for n in range(5)]
    for name in names:
        let_go(cache.hold(name))
    sizes = [cache.place(name).stat().st_size for name in names]
    for age, name in enumerate(names):
        os.utime(cache.place(name), (age, age))
    let_go(cache.hold(names[0]))  # used last now
    cache.place(names[4]).unlink()
    small = ShardCache(tmp_path / "kept", limit=sum(sizes) - sizes[1])
    let_go(small.hold(names[4]))
    assert [cache.place(name).exists() for name in names] == [True, False, True, True, True]


@pytest.mark.slow
def test_ten_thousand_shards_are_known_from_their_index_in_little_memory(tmp_path):
    names = [str(tmp_path / f"{n:06d}.tar") for n in range(10_000)]
    entries = [{"url": name, "nsamples": 1000} for name in names]
    index = {"wids_version": 1, "shardlist": entries}
    (tmp_path / "shardindex.json").write_text(json.dumps(index))
    path, cache = tmp_path / "kept" / "train.json", ShardCache(tmp_path)
    stored_counts(path, names, cache)
    tracemalloc.start()
    data = StreamedShards.of(stored_counts(path, names, cache), 2, cache)
    assert Order(data.counts, 0, 2).place(7_654_321).number < 1000
    kept, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert data.samples == 10**7
    assert kept < 5 * 2**20


def test_what_a_killed_process_left_makes_room(source, tmp_path):
    size = (source.folder / "003.tar").stat().st_size
    cache = ShardCache(tmp_path / "kept", limit=size)
    (tmp_path / "kept").mkdir()
    torn = tmp_path / "kept" / ".000-0123.tar.4194305.unfinished"
    torn.write_bytes(bytes(size))
    let_go(cache.hold(f"{source.url}/003.tar"))
    assert not torn.exists()


def test_the_samples_of_a_shard_are_those_of_webdataset(tmp_path, write_tar, uneven):
    files = [
        ("a.mp4", b"1"),
        ("a.txt", b"one"),
        ("b/c.TXT", b"two"),
        ("b/c.x.mp4", b"2"),
        ("plain", b""),
        ("__meta__/x.json", b"{}"),
        ("d.pyd", b"!"),
        ("a.txt", b"again"),
        ("é" * 150 + ".mp4", b"3"),
        ("é" * 150 + ".json", b'{"caption": "three"}'),
    ]
    for form in (tarfile.PAX_FORMAT, tarfile.GNU_FORMAT):
        path = write_tar(tmp_path / "odd.tar", files, form)
        theirs = list(webdataset.WebDataset(str(path), shardshuffle=False))
        with path.open("rb", buffering=0) as file:
            ours = Contents.of(file, 100)
            assert [sample.key for sample in ours.samples] == [each["__key__"] for each in theirs]
            read = [taken(file, sample) for sample in ours.samples]
        assert read == [(b"1", "one"), (b"2", "two"), "no video", "no video", (b"3", "three")]
        with path.open("rb", buffering=0) as file:
            assert len(Contents.of(file, 2).samples) == 2


def taken(file, sample):
    try:
        content = read_content("x", file, sample)
    except ClipError as error:
        return error.reason
    return content.video, content.caption


def test_a_claimed_size_and_a_magic_number_do_no_harm(tmp_path):
    """A sparse member may claim any size; tarfile takes a first name for compressed data."""
    path = tmp_path / "evil.tar"
    with tarfile.open(path, "w", format=tarfile.PAX_FORMAT) as tar:
        for name, headers in (
            (
                "a.mp4",
                {
                    "GNU.sparse.major": "0",
                    "GNU.sparse.minor": "1",
                    "GNU.sparse.size": str(1 << 45),
                    "GNU.sparse.map": "0,1",
                },
            ),
            ("a.txt", {}),
            ("BZh91AY&SY.mp4", {}),
            ("BZh91AY&SY.txt", {}),
        ):
            info = tarfile.TarInfo(name)
            info.size, info.pax_headers = 2, headers
            tar.addfile(info, io.BytesIO(b"ab"))
    with path.open("rb", buffering=0) as file:
        first, second = Contents.of(file, 9).samples
        assert taken(file, first) == "damaged shard"
        assert taken(file, second) == (b"ab", "ab")


def test_shards_without_a_usable_sample_are_one_error(tmp_path, write_tar):
    write_tar(tmp_path / "000.tar", [("a.pyd", b"1"), ("b.pyd", b"2")])
    with pytest.raises(DataError, match=r"none of 17 clips in a row.*no video"):
        batches(shards_in(str(tmp_path), tmp_path / "kept", counts=[2]))
    with pytest.raises(DataError, match=r"No clip in .*000.tar is usable"):
        batches(shards_in(str(tmp_path), tmp_path / "kept", counts=[0]))
