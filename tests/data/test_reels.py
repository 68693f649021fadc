"""Frames of a small set stay decoded: the same batches, and no video is decoded twice."""

from dataclasses import replace

import pytest
import torch

from nasvid.data import decode, reels
from nasvid.data.loader import BatchRequest, Cutting, load_batches
from nasvid.data.shards import ShardIndex, index_shards
from nasvid.shapes import Resolution

CLIPS = 6


@pytest.fixture(scope="module")
def index(tmp_path_factory, make_video, write_tar) -> ShardIndex:
    files = [
        (f"clip-{n}.{ending}", body)
        for n in range(CLIPS)
        for ending, body in (("mp4", make_video(9 + n % 3, 8)), ("txt", b"a caption"))
    ]
    path = write_tar(tmp_path_factory.mktemp("shards") / "s.tar", files)
    return index_shards(path.name, path.parent)


@pytest.fixture
def opened(monkeypatch) -> list[int]:
    """The size of each video that is opened."""
    found: list[int] = []
    plain = decode.open_video

    def open_video(video: bytes):
        found.append(len(video))
        return plain(video)

    monkeypatch.setattr(decode, "open_video", open_video)
    return found


def epochs(index: ShardIndex, number: int) -> list[torch.Tensor]:
    requests = [
        BatchRequest(n, Resolution(16 + 8 * (n % 2), 16), n * CLIPS, CLIPS) for n in range(number)
    ]
    batches = load_batches(
        index, requests, seed=3, workers=0, cutting=Cutting(frames=6, fps=8, flip=True, train=True)
    )
    return [batch.video for batch in batches]


def test_batches_are_the_same_and_each_video_is_soon_kept_whole(index, opened, monkeypatch):
    kept = epochs(index, 30)
    assert CLIPS <= len(opened) < 6 * CLIPS
    opened.clear()
    monkeypatch.setattr(reels, "KEPT", 0)
    for ours, theirs in zip(kept, epochs(index, 30), strict=True):
        assert torch.equal(ours, theirs)
    assert len(opened) == 30 * CLIPS


def test_a_set_that_is_too_large_keeps_nothing(index, opened, monkeypatch):
    largest = max(clip.video[1] for clip in index.clips)
    monkeypatch.setattr(reels, "KEPT", CLIPS * largest)  # enough for the videos, not their frames
    epochs(index, 2)
    assert len(opened) == 2 * CLIPS
    opened.clear()
    many = replace(index, clips=index.clips * (reels.KEPT // 8))
    epochs(many, 1)
    assert len(opened) == CLIPS
