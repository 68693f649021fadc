"""How a run chooses to stream, what it then says and refuses, and what it keeps."""

from dataclasses import replace
from pathlib import Path

import pytest

from nasvid.data import shards
from nasvid.data.cache import ShardCache
from nasvid.data.clips import clip_index, streamed_path, streams
from nasvid.data.samples import Skip
from nasvid.data.stored_counts import stored_counts
from nasvid.data.streamed import StreamedShards
from nasvid.data.wids import ShardCount
from nasvid.errors import UserError
from nasvid.host.display import Display
from nasvid.preflight import load_recipe
from nasvid.recipe.size import bytes_in
from nasvid.run.folder import begin
from nasvid.run.session import Session
from nasvid.run.splits import check_splits
from nasvid.training.unusable import GRACE, Unusable

EMBEDDED = Path(shards.__file__).parent / "embedded"
REMOTE = "data.train=http://127.0.0.1:9/{000..127}.tar"


@pytest.mark.parametrize(
    ("sets", "streamed"),
    [
        ([], False),
        ([REMOTE], True),
        ([REMOTE, "data.mode=local"], False),
        (["data.mode=stream"], True),
        ([REMOTE, "data.buckets=true"], False),
        ([REMOTE, "vae={}"], False),
        ([REMOTE, "vae={cache: none}"], True),
    ],
)
def test_remote_shards_are_streamed_unless_all_clips_are_needed(
    write_recipe, tmp_path, sets, streamed
):
    assert streams(load_recipe(write_recipe(), overrides=sets).recipe, tmp_path) is streamed


def test_a_run_keeps_the_mode_that_it_began_with(write_recipe, tmp_path):
    remote = load_recipe(write_recipe(), overrides=[REMOTE]).recipe
    local = load_recipe(write_recipe()).recipe
    clip_index(local, "train", tmp_path / "local", Display())
    assert not streams(remote, tmp_path / "local")
    path = streamed_path(tmp_path / "remote")
    stored_counts(path, [str(EMBEDDED / "val" / "digits-000.tar")], ShardCache(tmp_path / "kept"))
    assert streams(local, tmp_path / "remote")


@pytest.mark.parametrize("needs", ["data.buckets: true", "vae.cache: run"])
def test_what_needs_all_clips_is_refused_with_streaming(write_recipe, error_of, needs):
    sets = ["data.mode=stream", "vae={}" if "vae" in needs else "data.buckets=true"]
    said = error_of("plan", write_recipe(), *(f"--set={each}" for each in sets))
    assert "data.mode" in said
    assert needs in said
    assert "mode: local" in said


def test_a_size_has_a_unit(write_recipe, error_of):
    assert bytes_in("20 GB") == 20 * 10**9
    assert bytes_in("1.5MiB") == 3 << 19
    for size in ("20", "20 gb", "-1 GB", "0 GB"):
        said = error_of("plan", write_recipe(), f"--set=data.cache_limit='{size}'")
        assert "data.cache_limit" in said
        assert "such as 20 GB" in said


def test_a_streamed_run_says_what_it_does_not_know(write_recipe, tmp_path, capsys):
    both = EMBEDDED / "val" / "digits-000.tar"
    sets = ["data.mode=stream", f"data.train={both}", f"data.val={both}"]
    loaded = load_recipe(write_recipe(), overrides=sets)
    folder = begin(tmp_path / "run", loaded)
    check_splits(Session(folder, loaded))
    said = capsys.readouterr().out
    assert "samples in 1 shard, streamed; which samples are usable, and whether some" in said
    assert "Warning: 1 of 1 validation shards are training shards too" in said
    check_splits(session := Session(folder, loaded))
    assert "train data" not in capsys.readouterr().out
    with pytest.raises(UserError, match=r"data\.mode: this needs all training clips"):
        session.index("train")


def test_what_is_known_of_shards_is_said_first(tmp_path):
    shards = [f"http://127.0.0.1:9/{number}.tar" for number in range(20)]
    counts = [ShardCount(shard, 5, bytes=10**8) for shard in shards]
    counts[3] = ShardCount(shards[3], 2, bytes=10**8, fault="truncated shard")
    counts[4] = ShardCount(shards[4], 0, fault="HTTP 404", reached=False)
    cache = ShardCache(tmp_path, limit=10**9)
    said = StreamedShards.of(counts, 1, cache).describe()
    assert said.startswith(
        "92 samples in 20 shards, streamed; 1 cannot be reached and are left out; "
        "1 of them damaged, first http://127.0.0.1:9/3.tar (truncated shard); which samples"
    )
    assert said.endswith(
        "two windows of each stream take about 1.6 GB, more than data.cache_limit (1 GB): training "
        "may stop for want of room"
    )
    room = StreamedShards.of(counts, 1, replace(cache, limit=2 * 10**9))
    assert "cache_limit" not in room.describe()


def test_unusable_samples_are_limited_by_those_met(tmp_path):
    import numpy as np

    data = StreamedShards(("a.tar",), np.array([10**6]), 2, ShardCache(tmp_path))
    skips = [Skip(f"#{number}", "a.tar", "broken video") for number in range(GRACE)]
    unusable = Unusable(data, 0.05)
    unusable.meet(GRACE // 2)
    unusable.add([skips[: GRACE // 20]], lambda event: None)
    assert not unusable.excess
    unusable.add([skips[: GRACE // 20 + 1]], lambda event: None)
    assert unusable.excess.startswith(f"{GRACE // 20 + 1} of {GRACE} samples are unusable")
    assert f"({GRACE // 20 + 1}): broken video, first a.tar; `nasvid data" in unusable.excess
    unusable.meet(GRACE)
    assert not unusable.excess
