"""Clips of several shapes go to the resolutions that fit them best, if a recipe says so."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import yaml

from nasvid.data.clips import clip_index
from nasvid.data.errors import DataError
from nasvid.data.pools import pool
from nasvid.data.samples import ClipRef
from nasvid.data.shards import ShardIndex, index_shards
from nasvid.host.display import Display
from nasvid.preflight import load_recipe
from nasvid.recipe.sections import Recipe
from nasvid.shapes import Resolution
from tests.data.test_images import IMAGES

SHAPES = {"wide": (12, 32, 56), "tall": (12, 56, 32), "square": (12, 32, 32), "short": (5, 32, 56)}
"""Key of a video -> frames, height, width."""


@pytest.fixture(scope="module")
def folder(make_video, write_tar, tmp_path_factory) -> Path:
    """Make a shard of four videos and an image of 16x24 pixels."""
    root = tmp_path_factory.mktemp("shapes")
    members = [("image.png", IMAGES["png"]), ("image.txt", b"words")]
    for key, (frames, height, width) in SHAPES.items():
        video = make_video(frames, width=width, height=height)
        members += [(f"{key}.mp4", video), (f"{key}.txt", b"words")]
    write_tar(root / "all.tar", members)
    return root


@pytest.fixture(scope="module")
def index(folder: Path) -> ShardIndex:
    return index_shards("all.tar", folder, shapes=True)


def shared(index: ShardIndex, *texts: str | int, frames: int = 8) -> dict[str, str]:
    """Return the keys of the clips that each resolution takes."""
    buckets = tuple(map(Resolution.parse, texts))
    index = replace(index, buckets=buckets)
    return {
        str(each): " ".join(index.clips[number].key for number in pool(index, each, frames))
        for each in buckets
    }


def test_shapes_are_those_that_are_shown(index: ShardIndex) -> None:
    assert {clip.key: clip.shape for clip in index.clips} == SHAPES | {"image": (1, 16, 24)}


def test_a_clip_goes_where_its_aspect_ratio_fits_best(index: ShardIndex) -> None:
    assert shared(index, "32x56", "56x32", 32) == {"32x56": "wide", "56x32": "tall", "32": "square"}
    assert shared(index, "16x28", "64x32") == {"16x28": "wide square", "64x32": "tall"}


def test_equal_aspect_ratios_share_their_clips_whatever_their_size(index: ShardIndex) -> None:
    wide = {"16x28": "wide", "32x56": "wide", "480x832": "wide"}
    assert shared(index, *wide, 32, "56x32") == wide | {"32": "square", "56x32": "tall"}


def test_a_clip_goes_only_where_it_has_the_frames(index: ShardIndex) -> None:
    every = {"32x56x4": "wide square short", "32x56x12": "wide square", "32x56x1": ""}
    found = shared(index, *every, "56x32x13")
    assert found["32x56x4"] == "wide tall square short"
    assert found["32x56x12"] == "wide tall square"
    assert found["56x32x13"] == ""
    assert found["32x56x1"] == "image wide tall square short"


def test_an_image_goes_to_images_however_badly_they_fit(index: ShardIndex) -> None:
    found = shared(index, "16x24", "64x16x1")
    assert found == {"16x24": "wide square", "64x16x1": "image tall short"}


Load = Callable[[str], Recipe]


@pytest.fixture
def load(write_recipe, folder: Path) -> Load:
    """Load a recipe with these resolutions that has buckets."""

    def load(resolutions: str) -> Recipe:
        sets = [
            f"resolutions={{{resolutions}}}",
            f"data.train={folder / 'all.tar'}",
            f"data.val={folder / 'all.tar'}",
            "data.buckets=true",
        ]
        return load_recipe(write_recipe(), overrides=sets).recipe

    return load


def test_a_run_keeps_the_shapes_of_its_clips(load: Load, tmp_path: Path) -> None:
    recipe = load("32x56: {batch: 2}, 56x32: {batch: 2}")
    first = clip_index(recipe, "train", tmp_path, Display())
    assert first.buckets == tuple(sorted(recipe.resolutions))
    stored = (tmp_path / "data" / "train.index.jsonl").read_text()
    assert yaml.safe_load(stored.splitlines()[1])["clips"][0][4:] == [True, [1, 16, 24]]
    again = clip_index(recipe, "train", tmp_path, Display())
    assert again.clips == first.clips


def test_a_resolution_without_clips_is_refused_before_anything_is_made(
    load: Load, tmp_path: Path
) -> None:
    recipe = load("32x56: {batch: 2}, 56x32x13: {batch: 2}")
    wanted = r"data\.train: none of its 5 clips is for the resolution 56x32x13: none of 13 frames"
    with pytest.raises(DataError, match=wanted):
        clip_index(recipe, "train", tmp_path, Display())


def test_a_clip_that_cannot_be_opened_is_skipped_where_shapes_are_asked_for(
    tmp_path: Path, write_tar
) -> None:
    members = [("x.png", IMAGES["png"][:60]), ("x.txt", b"words")]
    folder = write_tar(tmp_path / "x.tar", members).parent
    assert [clip.key for clip in index_shards("x.tar", folder).clips] == ["x"]
    found = index_shards("x.tar", folder, shapes=True)
    assert not found.clips
    assert found.reasons() == {"broken image": 1}


def test_of_many_clips_none_is_asked_for_its_shape_without_buckets() -> None:
    clips = tuple(ClipRef("x.tar", str(number), (0, 1), "words") for number in range(1000))
    index = ShardIndex(("x.tar",), clips, (), 0, "")
    assert pool(index, Resolution(8, 16, 4), 2) == range(1000)
