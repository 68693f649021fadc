import io
import json
import re
import tarfile
from pathlib import Path

import numpy as np
import pytest

from nasvid.data.decode import decode
from nasvid.data.digits import DIRECTIONS
from nasvid.data.footage import footage_clips, scenes
from nasvid.data.paths import EMBEDDED
from nasvid.data.samples import read_video
from nasvid.data.shards import index_shards

pytestmark = pytest.mark.slow

HERE = Path()


def clips(split: str, kind: str = ""):
    spec = f"embedded:{kind}" if kind else "embedded"
    index = index_shards(spec, HERE, split)
    assert index.skipped == ()
    assert index.ignored == 0
    return index.clips


def frames(clip) -> np.ndarray:
    return decode(read_video(clip), frames=16, fps=30, height=64, width=64).frames


def test_the_splits_have_their_clips_and_are_small():
    assert [len(clips("train", kind)) for kind in ("digits", "footage")] == [640, 150]
    assert [len(clips("val", kind)) for kind in ("digits", "footage")] == [80, 40]
    assert len(clips("train")) == 790
    assert sum(path.stat().st_size for path in EMBEDDED.rglob("*")) < 6e6


def test_no_handwriting_is_in_both_splits():
    images = [
        {clip.key.rpartition("-")[2] for clip in clips(s, "digits")} for s in ("train", "val")
    ]
    assert len(images[0]) > 400
    assert not images[0] & images[1]


def test_no_source_of_footage_is_in_both_splits():
    sources = []
    for split in ("train", "val"):
        with tarfile.open(EMBEDDED / split / "footage-000.tar") as shard:
            found = [json.load(shard.extractfile(m)) for m in shard if m.name.endswith("json")]
        sources.append({sample["source"] for sample in found})
    assert [len(each) for each in sources] == [8, 3]
    assert not sources[0] & sources[1]
    assert not {re.sub("SinglePerson|MultiPerson", "", s) for s in sources[0]} & {
        re.sub("SinglePerson|MultiPerson", "", s) for s in sources[1]
    }


def test_every_source_is_named_with_its_licence():
    text = (EMBEDDED / "SOURCES.md").read_text()
    for scene in scenes():
        licence = scene.source.split(", ")[-1]
        assert licence in text
        assert Path(scene.file).name in text or "cam0{" in text


@pytest.mark.parametrize("split", ["train", "val"])
def test_digits_move_as_their_captions_say(split):
    for clip in clips(split, "digits")[:: 4 if split == "train" else 1]:
        digit, slowly, direction = re.fullmatch(
            r"the digit (\d) moves (slowly )?(left|right|up|down)", clip.caption
        ).groups()
        light = frames(clip).mean(axis=-1)
        grid = np.arange(64)
        x = (light.sum(axis=1) * grid).sum(axis=1) / light.sum(axis=(1, 2))
        y = (light.sum(axis=2) * grid).sum(axis=1) / light.sum(axis=(1, 2))
        along_x, along_y = DIRECTIONS[direction]
        way = x * along_x + y * along_y
        across = x * abs(along_y) + y * abs(along_x)
        assert 13 < way[-1] - way[0] < 19 if slowly else 29 < way[-1] - way[0] < 37
        assert np.ptp(across) < 4
        assert abs(across.mean() - 31.5) < 8
        assert light[8].max() > 240
        assert digit in "0123456789"


@pytest.mark.parametrize("split", ["train", "val"])
def test_footage_moves_and_is_sixteen_frames_of_a_real_rate(split):
    for clip in clips(split, "footage")[::5]:
        shown = decode(read_video(clip), frames=16, fps=30, height=64, width=64)
        assert 7 <= shown.fps <= 15
        assert np.abs(np.diff(shown.frames.astype(int), axis=0)).mean() > 0.3
        assert 4 <= len(clip.caption.split()) <= 16


def test_clips_are_cut_from_the_footage_that_is_there(tmp_path, make_video):
    for scene in scenes():
        path = tmp_path / "unpacked" / scene.file
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(make_video(232, 25, width=64, height=64))
    made = list(footage_clips(tmp_path, "val"))
    kept = clips("val", "footage")
    assert [clip.caption for clip in made] == [clip.caption for clip in kept]
    assert {clip.frames.shape for clip in made} == {(16, 64, 64, 3)}


def test_missing_footage_is_named(tmp_path):
    with pytest.raises(ValueError, match=r"has no Pose2Sim/.*cam02\.mp4"):
        next(footage_clips(tmp_path, "val"))


def test_shards_are_plain_tars_without_names_or_times():
    for path in EMBEDDED.rglob("*.tar"):
        with tarfile.open(fileobj=io.BytesIO(path.read_bytes())) as shard:
            assert {member.mtime for member in shard} == {0}
