"""Reading from a source that fails: training continues, nothing doubles, the counts are right."""

import multiprocessing
import random
import shutil
import time
from collections import Counter

import pytest

from nasvid.data import fetch
from nasvid.data.cache import ShardCache
from nasvid.data.errors import DataError
from nasvid.data.loader import BatchRequest, Cutting, load_batches
from nasvid.data.shards import index_shards
from nasvid.data.stored import stored_index
from nasvid.data.urls import file_name
from nasvid.host.files import NotWritten
from nasvid.shapes import Resolution

SHARDS, CLIPS = 5, 7 + 1 + 4 + 9 + 2
WRONGS = ("503", "reset", "short", "cut")


@pytest.fixture(autouse=True)
def served(source, uneven, quick) -> None:
    shutil.copytree(uneven, source.folder, dirs_exist_ok=True)


def one_in_five(seed: int):
    """Let one request in five fail, in one of four ways."""
    rng = random.Random(seed)
    return lambda number: rng.choice(WRONGS) if rng.random() < 0.2 else None


def spec(source) -> str:
    return f"{source.url}/{{000..004}}.tar"


def names(source) -> list[str]:
    return [f"{source.url}/{n:03d}.tar" for n in range(SHARDS)]


def epoch(index, workers=0, size=4, epochs=1):
    """Return all batches of whole epochs."""
    total = epochs * len(index.clips)
    steps = range(0, total, size)
    requests = [BatchRequest(n, Resolution(16, 16), n, min(size, total - n)) for n in steps]
    return list(
        load_batches(
            index,
            requests,
            seed=1,
            workers=workers,
            cutting=Cutting(frames=4, fps=8, flip=False, train=True),
        )
    )


def counted(batches) -> Counter:
    return Counter(key for batch in batches for key in batch.keys)


@pytest.mark.parametrize("seed", range(4))
def test_a_source_that_fails_one_request_in_five_gives_the_same_as_files(
    source, uneven, tmp_path, seed
):
    source.fail = one_in_five(seed)
    index = index_shards(spec(source), tmp_path, cache=ShardCache(tmp_path / "kept"))
    files = index_shards("*.tar", uneven)
    assert index.fingerprint == files.fingerprint
    assert index.skipped == ()
    assert [clip.key for clip in index.clips] == [clip.key for clip in files.clips]
    batches = epoch(index, workers=2)
    assert counted(batches) == Counter(clip.key for clip in files.clips)
    assert [batch.keys for batch in batches] == [batch.keys for batch in epoch(files)]
    assert not any(batch.skipped for batch in batches)
    assert sum(source.asked.values()) < 4 * SHARDS


def test_a_machine_that_has_no_shard_yet_fetches_each_once_as_its_workers_read(source, tmp_path):
    """The index comes from another machine; two processes read, one request in five fails."""
    index = index_shards(spec(source), tmp_path, cache=ShardCache(tmp_path / "kept"))
    shutil.rmtree(tmp_path / "kept")
    source.asked.clear()
    failed = []
    plan = one_in_five(7)

    def fail(number: int) -> str | None:
        failed.append(plan(number))
        return failed[-1]

    source.fail = fail
    batches = epoch(index, workers=2, size=2)
    assert counted(batches) == Counter(clip.key for clip in index.clips)
    assert sum(source.asked.values()) == SHARDS + sum(wrong is not None for wrong in failed)


def test_a_vanished_shard_is_left_out_and_counted_as_the_others_are_large(source, tmp_path):
    (source.folder / "003.tar").unlink()
    cache = ShardCache(tmp_path / "kept")
    index = index_shards(spec(source), tmp_path, cache=cache, max_skipped=0.5)
    assert len(index.clips) == CLIPS - 9
    assert index.reasons() == {"unreachable shard": 1}
    (skip,) = index.skipped
    assert (skip.shard, skip.key) == (names(source)[3], "")
    assert "HTTP 404" in skip.cause
    assert index.unusable == round((CLIPS - 9) / 4)
    assert counted(epoch(index)) == Counter(clip.key for clip in index.clips)
    assert source.asked["003.tar"] == 1


def test_more_lost_shards_than_allowed_end_it_and_say_why(source, tmp_path):
    for number in (1, 3):
        (source.folder / f"{number:03d}.tar").unlink()
    cache = ShardCache(tmp_path / "kept")
    says = (
        r"2 of 5 shards cannot be fetched, more than data.max_skipped \(0.3\) .*001.tar: HTTP 404"
    )
    with pytest.raises(DataError, match=says):
        index_shards(spec(source), tmp_path, cache=cache, max_skipped=0.3)
    assert len(index_shards(spec(source), tmp_path, cache=cache, max_skipped=0.5).clips) == 13


def test_a_truncated_shard_gives_what_is_whole_of_it(source, uneven, tmp_path):
    whole = (source.folder / "003.tar").read_bytes()
    (source.folder / "003.tar").write_bytes(whole[: len(whole) // 2])
    index = index_shards(spec(source), tmp_path, cache=ShardCache(tmp_path / "kept"))
    shutil.copytree(source.folder, tmp_path / "local")
    files = index_shards("local/*.tar", tmp_path)
    assert index.reasons() == files.reasons() == {"truncated shard": 1}
    assert 0 < len(index.clips) == len(files.clips) < CLIPS
    assert index.fingerprint == files.fingerprint
    assert counted(epoch(index)) == Counter(clip.key for clip in index.clips)


def test_all_sources_gone_is_one_error_with_the_cause(source, tmp_path):
    url = spec(source)
    source.close()
    with pytest.raises(DataError) as error:
        index_shards(url, tmp_path, cache=ShardCache(tmp_path / "kept", retries=1))
    assert str(error.value).startswith(
        f"None of the 5 shards can be fetched; the first, {url[:22]}"
    )
    assert "refused" in str(error.value)


@pytest.mark.slow
def test_it_is_given_up_as_soon_as_it_is_hopeless(source, tmp_path):
    many = f"{source.url}/gone-{{0000..0999}}.tar"
    with pytest.raises(DataError, match="None of the first 51 of 1000 shards can be fetched"):
        index_shards(many, tmp_path, cache=ShardCache(tmp_path / "kept"), max_skipped=0.05)
    assert source.requests < 100


def test_a_shard_that_leaves_the_folder_is_fetched_again(source, tmp_path):
    cache = ShardCache(tmp_path / "kept")
    index = index_shards(spec(source), tmp_path, cache=cache)
    (cache.folder / file_name(names(source)[0])).unlink()
    source.asked.clear()
    assert counted(epoch(index, workers=2)) == Counter(clip.key for clip in index.clips)
    assert source.asked == {"000.tar": 1}


@pytest.mark.parametrize("workers", [0, 2])
def test_clips_of_a_shard_that_is_gone_for_good_are_replaced_and_counted(source, tmp_path, workers):
    cache = ShardCache(tmp_path / "kept", retries=1)
    index = index_shards(spec(source), tmp_path, cache=cache)
    (cache.folder / file_name(names(source)[2])).unlink()
    (source.folder / "002.tar").unlink()
    batches = epoch(index, workers)
    skipped = {(skip.shard, skip.key, skip.reason) for b in batches for skip in b.skipped}
    gone = [clip for clip in index.clips if clip.shard == names(source)[2]]
    assert skipped == {(clip.shard, clip.key, "unreachable shard") for clip in gone}
    seen = counted(batches)
    assert sum(seen.values()) == CLIPS
    assert set(seen) == {clip.key for clip in index.clips} - {clip.key for clip in gone}


def test_workers_that_are_fetching_end_with_their_reader(source, tmp_path, monkeypatch):
    cache = ShardCache(tmp_path / "kept", retries=9)
    index = index_shards(spec(source), tmp_path, cache=cache)
    requests = [BatchRequest(n, Resolution(16, 16), n, 1) for n in range(len(index.clips))]

    def load(workers):
        return load_batches(
            index,
            requests,
            seed=1,
            workers=workers,
            cutting=Cutting(frames=4, fps=8, flip=False, train=True),
        )

    (first,) = next(load(0)).keys
    (shard,) = {clip.shard for clip in index.clips if clip.key == first}
    for kept in cache.folder.glob("*.tar"):
        if kept.name != file_name(shard):
            kept.unlink()
    monkeypatch.setattr(fetch, "FIRST_WAIT", 60)
    monkeypatch.setattr(fetch, "LONGEST_WAIT", 60)
    source.fail, before = lambda number: "503", source.requests
    batches = load(2)
    next(batches)
    while source.requests == before:
        time.sleep(0.05)
    started = time.monotonic()
    batches.close()
    assert multiprocessing.active_children() == []
    assert time.monotonic() - started < 20, "each would wait for half a minute at least"


def test_clips_of_a_local_shard_that_vanishes_are_replaced_and_counted(source, tmp_path):
    index = index_shards("source/*.tar", tmp_path)
    (source.folder / "002.tar").unlink()
    batches = epoch(index, workers=2)
    skipped = {(skip.key, skip.reason) for batch in batches for skip in batch.skipped}
    assert skipped == {(f"02-{n:02d}", "missing shard") for n in range(4)}
    assert sum(counted(batches).values()) == CLIPS


def test_local_and_fetched_shards_mix(source, uneven, tmp_path):
    both = [str(uneven / "000.tar"), f"{source.url}/003.tar", f"pipe:cat {uneven}/002.tar"]
    cache = ShardCache(tmp_path / "kept", allow_pipes=True)
    index = index_shards(both, tmp_path, cache=cache)
    assert len(index.clips) == 7 + 9 + 4
    assert counted(epoch(index)) == Counter(clip.key for clip in index.clips)


def test_every_process_of_a_run_has_the_index_that_was_made_first(source, tmp_path):
    """The second cannot fetch anything, or could fetch more: it has the same clips."""
    cache, path = ShardCache(tmp_path / "kept"), tmp_path / "train.index.jsonl"
    (source.folder / "001.tar").rename(tmp_path / "away")
    first = stored_index(path, names(source), cache, max_skipped=0.5)
    assert first.reasons() == {"unreachable shard": 1}
    (tmp_path / "away").rename(source.folder / "001.tar")
    source.asked.clear()
    elsewhere = ShardCache(tmp_path / "other machine", retries=0)
    second = stored_index(path, names(source), elsewhere, max_skipped=0)
    assert (second.clips, second.skipped) == (first.clips, first.skipped)
    assert second.fingerprint == first.fingerprint
    assert source.asked == {}
    assert counted(epoch(second)) == counted(epoch(first))


def test_local_shards_are_read_again_only_when_they_are_others(source, tmp_path, uneven):
    path, shard = tmp_path / "train.index.jsonl", source.folder / "000.tar"
    local = [str(shard), str(source.folder / "002.tar")]
    first = stored_index(path, local, None)
    again = stored_index(path, local, None)
    assert (again.clips, again.fingerprint) == (first.clips, first.fingerprint)
    shard.write_bytes(shard.read_bytes())
    assert stored_index(path, local, None).fingerprint == first.fingerprint
    shutil.copy(uneven / "003.tar", shard)
    with pytest.raises(DataError, match="The shards have changed since"):
        stored_index(path, local, None)
    with pytest.raises(DataError, match="The shards have changed since"):
        stored_index(path, local[1:], None)


@pytest.mark.slow
@pytest.mark.parametrize("torn", ["", "{}\n", "[1]\n", '{"format": 1, "shards": 9}\n', "\xff"])
def test_a_damaged_index_is_named_and_made_again(source, tmp_path, torn, capsys):
    path, cache = tmp_path / "train.index.jsonl", ShardCache(tmp_path)
    whole = stored_index(path, names(source), cache).fingerprint
    before = path.read_bytes()
    path.write_text(torn, encoding="utf-8")
    assert stored_index(path, names(source), cache).fingerprint == whole
    assert path.read_bytes() == before
    assert "train.index.jsonl is damaged" in capsys.readouterr().out


def test_too_many_unusable_samples_leave_no_index_behind(source, tmp_path, write_tar):
    write_tar(source.folder / "bad.tar", [("a.mp4", b"v"), ("b.mp4", b"v"), ("c.txt", b"x")])
    path, local = tmp_path / "i.jsonl", [str(source.folder / "bad.tar")]
    with pytest.raises(
        DataError, match=r"3 of 3 samples are unusable \(2 no caption, 1 no video\)"
    ):
        stored_index(path, local, None, max_skipped=0.05)
    assert not path.exists()
    assert stored_index(path, local, None).reasons() == {"no caption": 2, "no video": 1}
    assert path.exists()


@pytest.mark.parametrize("workers", [0, 1])
def test_a_full_cache_is_one_line_from_any_process(source, mounted, workers):
    disk = mounted("size=1m")
    cache = ShardCache(disk)
    index = index_shards(names(source), disk, cache=cache)
    for shard in disk.glob("*.tar"):
        shard.unlink()
    (disk / "other").write_bytes(bytes(shutil.disk_usage(disk).free))
    for attempt in (
        lambda: index_shards(names(source), disk, cache=cache),
        lambda: epoch(index, workers),
    ):
        with pytest.raises(NotWritten, match=r"^.*tar cannot be written: No space left.*$") as said:
            attempt()
        assert "\n" not in str(said.value)
    (disk / "other").unlink()
    assert sum(counted(epoch(index, workers)).values()) == CLIPS
