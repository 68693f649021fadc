"""Validation clips that are in the training data are found, and no others."""

from collections.abc import Callable
from pathlib import Path

import pytest

from nasvid.data.overlap import also_in_training
from nasvid.data.shards import ShardIndex, index_shards

Shard = Callable[..., ShardIndex]


@pytest.fixture
def shard(tmp_path: Path, write_tar, make_video) -> Shard:
    """Write a shard of the videos of given lengths, by key; return its index."""

    def write(name: str, caption: str = "words", **lengths: int) -> ShardIndex:
        files = []
        for key, frames in lengths.items():
            files += [(f"{key}.mp4", make_video(frames)), (f"{key}.txt", caption.encode())]
        write_tar(tmp_path / name, files)
        return index_shards(name, tmp_path)

    return write


def shared(train: ShardIndex, val: ShardIndex) -> list[str]:
    return [clip.key for clip in also_in_training(train, val)]


def test_the_same_shards_share_everything(shard: Shard) -> None:
    index = shard("a.tar", a=8, b=9)
    assert shared(index, index) == ["a", "b"]


def test_a_video_is_found_under_another_name_with_another_caption(shard: Shard) -> None:
    train = shard("a.tar", **{f"t{n}": 8 + n for n in range(6)})
    assert shared(train, shard("b.tar", "other", x=10, y=20)) == ["x"]


def test_a_name_alone_says_nothing(shard: Shard) -> None:
    assert shared(shard("a.tar", **{"000": 8}), shard("b.tar", **{"000": 9})) == []


def test_parts_of_one_video_share_it(shard: Shard) -> None:
    train = shard("a.tar", v_TaiChi_g01_c01=8, v_TaiChi_g02_c01=9)
    val = shard("b.tar", v_TaiChi_g02_c02=10, v_TaiChi_g03_c01=11)
    assert shared(train, val) == ["v_TaiChi_g02_c02"]


def test_the_clips_that_ship_are_held_out() -> None:
    train, val = (index_shards("embedded", Path(), split) for split in ("train", "val"))
    assert shared(train, val) == []


def test_videos_of_one_size_are_compared(shard: Shard, tmp_path: Path, write_tar) -> None:
    train = shard("a.tar", a=8)
    ref = train.clips[0]
    video = bytearray((tmp_path / "a.tar").read_bytes()[ref.video[0] : sum(ref.video)])
    video[-1] ^= 1
    write_tar(tmp_path / "b.tar", [("a.mp4", bytes(video)), ("a.txt", b"words")])
    assert shared(train, index_shards("b.tar", tmp_path)) == []
