"""The counts that a run keeps of its streamed shards, and how it knows the shards again."""

import os
import shutil
from dataclasses import replace
from pathlib import Path

import pytest

from nasvid.data import shards
from nasvid.data.cache import ShardCache
from nasvid.data.errors import DataError
from nasvid.data.stored_counts import stored_counts

EMBEDDED = Path(shards.__file__).parent / "embedded"


def test_counts_are_kept_and_another_shard_is_noticed(tmp_path, capsys):
    names = [str(EMBEDDED / "val" / f"{kind}-000.tar") for kind in ("digits", "footage")]
    path, cache = tmp_path / "data" / "train.json", ShardCache(tmp_path / "kept")
    counts = stored_counts(path, names, cache)
    assert counts[1].samples == 40
    moved = [str(tmp_path / "elsewhere" / Path(name).name) for name in names]
    assert [count.samples for count in stored_counts(path, moved, cache)] == [
        count.samples for count in counts
    ]
    with pytest.raises(DataError, match=r"These are not the shards of .*train\.json; name those"):
        stored_counts(path, names[:1], cache)
    path.write_text("{")
    assert stored_counts(path, names, cache) == counts
    assert "is damaged" in capsys.readouterr().out


def test_a_local_shard_is_known_again_by_its_content(tmp_path, write_tar):
    first, second = (
        write_tar(tmp_path / name / "a.tar", [("a.mp4", os.urandom(99_000)), ("a.txt", b"one")])
        for name in ("first", "second")
    )
    path, cache = tmp_path / "train.json", ShardCache(tmp_path / "kept")
    counts = stored_counts(path, [str(first)], cache)
    os.utime(first)
    assert stored_counts(path, [str(first)], cache) == counts
    shutil.copyfile(first, moved := tmp_path / "a.tar")
    assert stored_counts(path, [str(moved)], cache) == [replace(counts[0], shard=str(moved))]
    assert second.stat().st_size == first.stat().st_size
    with moved.open("ab") as longer:
        longer.write(bytes(1024))
    for other in (second, moved):
        with pytest.raises(DataError, match=f"{other} has changed since .*; restore it, or start"):
            stored_counts(path, [str(other)], cache)
