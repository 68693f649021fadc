import multiprocessing
import os
import re
import signal
import time
from pathlib import Path

import pytest
import torch
from torch.utils.data.dataloader import _MultiProcessingDataLoaderIter

from nasvid.data.errors import DataError
from nasvid.data.loader import BatchRequest, Cutting, load_batches
from nasvid.data.shards import ShardIndex, index_shards
from nasvid.shapes import Resolution
from tests.processes import Started

CLIPS, BROKEN = 23, 3


@pytest.fixture(scope="module")
def index(tmp_path_factory, make_video, write_tar) -> ShardIndex:
    """23 sound clips and, among them, 3 that the index cannot know to be broken."""
    videos = {f"ok-{n:02d}": make_video(20 + n % 3, 8 + 4 * (n % 2)) for n in range(CLIPS)}
    videos |= {"bad-0": b"garbage", "bad-1": make_video()[:600], "bad-2": make_video(3)}
    files = [
        (f"{key}.{ending}", body)
        for key in sorted(videos)
        for ending, body in (("mp4", videos[key]), ("txt", f"caption of {key}".encode()))
    ]
    path = write_tar(tmp_path_factory.mktemp("shards") / "s.tar", files)
    return index_shards(path.name, path.parent)


@pytest.fixture
def sound(index) -> ShardIndex:
    clips = tuple(clip for clip in index.clips if clip.key.startswith("ok"))
    return ShardIndex(index.shards, clips, (), 0, "")


def load(index, requests, *, workers=0, train=True, seed=5, frames=6, flip=True):
    return load_batches(
        index,
        iter(requests),
        seed=seed,
        workers=workers,
        cutting=Cutting(frames=frames, fps=8, flip=flip, train=train),
    )


def requests(count: int, size: int = 5) -> list[BatchRequest]:
    return [BatchRequest(n, Resolution(16 + 8 * (n % 2), 16), n * size, size) for n in range(count)]


def assert_same(ours, theirs):
    for one, other in zip(ours, theirs, strict=True):
        assert torch.equal(one.video, other.video)
        assert torch.equal(one.fps, other.fps)
        assert (one.captions, one.keys, one.skipped) == (
            other.captions,
            other.keys,
            other.skipped,
        )


@pytest.mark.slow
def test_batches_do_not_depend_on_the_number_of_workers(index):
    alone = list(load(index, requests(12)))
    for workers in (1, 2):
        assert_same(alone, load(index, requests(12), workers=workers))


def test_a_run_goes_on_anywhere_without_what_came_before(index):
    whole = list(load(index, requests(12)))
    assert_same(whole[7:], load(index, requests(12)[7:], workers=1))


def test_a_batch_is_what_it_says(index):
    for request, batch in zip(requests(4), load(index, requests(4)), strict=True):
        assert batch.video.shape == (5, 3, 6, request.resolution.height, request.resolution.width)
        assert batch.video.dtype == batch.fps.dtype == torch.float32
        assert batch.captions == [f"caption of {key}" for key in batch.keys]
        assert set(batch.fps.tolist()) <= {8.0, 12.0}


def test_video_is_between_minus_one_and_one(index):
    """The left edge of every frame is black, the right edge white, gray is between."""
    (batch,) = load(index, [BatchRequest(0, Resolution(32, 48), 0, 8)], flip=False)
    assert -1 <= batch.video[..., 0].max() < -0.95
    assert 1 >= batch.video[..., -1].min() > 0.95
    assert -0.9 < batch.video[..., 24].min() <= batch.video[..., 24].max() < 0


def test_an_epoch_has_each_clip_once_and_another_order_each_time(sound):
    batches = load(sound, requests(3 * CLIPS, size=1), train=False)
    keys = [batch.keys[0] for batch in batches]
    epochs = [keys[n * CLIPS : (n + 1) * CLIPS] for n in range(3)]
    assert all(sorted(epoch) == [clip.key for clip in sound.clips] for epoch in epochs)
    assert len({tuple(epoch) for epoch in epochs}) == 3


def test_the_seed_decides_the_order(sound):
    orders = [[b.keys for b in load(sound, requests(4), seed=seed)] for seed in (1, 1, 2)]
    assert orders[0] == orders[1] != orders[2]


def test_training_cuts_at_random_and_validation_always_alike(sound):
    one = ShardIndex(sound.shards, sound.clips[:1], (), 0, "")
    cuts = [batch.video for batch in load(one, requests(12, size=1)[::2])]
    assert len({tuple(cut.flatten().tolist()) for cut in cuts}) == len(cuts)
    fixed = [batch.video for batch in load(one, requests(12, size=1)[::2], train=False)]
    assert all(torch.equal(cut, fixed[0]) for cut in fixed)


def test_only_flip_mirrors(sound):
    """The left edge of every frame is dark, the right edge light."""

    def mirrored(flip: bool, train: bool) -> set[bool]:
        wide = [BatchRequest(n, Resolution(32, 48), n * 5, 5) for n in range(6)]
        batches = load(sound, wide, flip=flip, train=train)
        return {
            bool(clip[..., 0].mean() > clip[..., -1].mean()) for b in batches for clip in b.video
        }

    assert mirrored(flip=True, train=True) == {True, False}
    assert mirrored(flip=False, train=True) == mirrored(flip=True, train=False) == {False}


def test_broken_clips_are_replaced_and_reported(index):
    epoch = [BatchRequest(0, Resolution(16, 16), 0, CLIPS + BROKEN)]
    (batch,) = load(index, epoch)
    assert len(batch.keys) == CLIPS + BROKEN
    assert all(key.startswith("ok") for key in batch.keys)
    reasons = {skip.key: skip.reason for skip in batch.skipped}
    assert reasons == {"bad-0": "broken video", "bad-1": "broken video", "bad-2": "too short"}
    assert {skip.shard for skip in batch.skipped} == set(index.shards)


def test_clip_after_clip_failing_ends_the_run(index, children):
    for workers in (0, 1):
        with pytest.raises(
            DataError, match=r"Batch 7: .*17 clips in a row .* 900 frames.*too short|"
        ):
            list(
                load(
                    index, [BatchRequest(7, Resolution(16, 16), 0, 2)], frames=900, workers=workers
                )
            )
        assert children() == []


def test_no_clips_is_an_error_before_anything_starts(tmp_path, write_tar):
    write_tar(tmp_path / "s.tar", [("a.mp4", b"v"), ("b.txt", b"words")])
    with pytest.raises(DataError, match=r"No clip in .*s\.tar .*: 1 no caption, 1 no video"):
        load(index_shards("s.tar", tmp_path), requests(1))


def test_loading_leaves_the_global_generators_alone(index):
    before = torch.get_rng_state()
    for workers in (0, 1):
        next(load(index, requests(2), workers=workers))
    assert torch.equal(before, torch.get_rng_state())


def test_closing_ends_the_workers(index, children):
    batches = load(index, requests(50), workers=2)
    next(batches)
    assert len(children()) == 2
    batches.close()
    assert children() == []


@pytest.mark.slow
def test_a_killed_worker_is_replaced_and_the_clips_stay_the_same(
    index, capsys, monkeypatch, children
):
    # Look for dead processes every 0.3 seconds, which torch does every 5.
    monkeypatch.setattr(_MultiProcessingDataLoaderIter._try_get_data, "__defaults__", (0.3,))
    alone = list(load(index, requests(20)))
    batches = load(index, requests(20), workers=1)
    found = [next(batches)]
    os.kill(children()[0], signal.SIGKILL)
    assert_same(alone, [*found, *batches])
    assert "A loader process died" in capsys.readouterr().err
    assert children() == []


def read_on(index: ShardIndex) -> None:
    """Read batches in two processes, without end; print which they are."""
    batches = load(index, requests(9999), workers=2)
    next(batches)
    print("workers", *(each.pid for each in multiprocessing.active_children()), flush=True)
    signal.pause()


@pytest.mark.slow
def test_workers_die_with_their_parent(index, tmp_path):
    parent = Started(tmp_path / "said", read_on, index)
    parent.wait_for(lambda: re.search(r"workers [\d ]+\n", parent.said))
    workers = [int(pid) for pid in parent.said.partition("workers")[2].split()]
    assert len(workers) == 2
    assert all(Path(f"/proc/{pid}").exists() for pid in workers)
    parent.kill()
    deadline = time.monotonic() + 20
    while any(Path(f"/proc/{pid}").exists() for pid in workers):
        assert time.monotonic() < deadline, "a worker outlived its parent"
        time.sleep(0.1)
