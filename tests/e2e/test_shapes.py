"""A run on videos and images, at a resolution for each, from packing them to the report."""

import json
import re
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner, Result
from PIL import Image

from nasvid.cli.main import main
from nasvid.data.encode import encode_timed
from nasvid.export.video import read_mp4

pytestmark = pytest.mark.slow

VIDEO, IMAGE = "16x32x4", "32x24x1"
SECTIONS = {
    "name": "shapes",
    "data": {
        "train": "shards/*.tar",
        "val": "shards/*.tar",
        "frames": 9,
        "buckets": True,
        "context_len": 6,
        "workers": 0,
    },
    "resolutions": {VIDEO: {"batch": 2}, IMAGE: {"batch": "auto"}},
    "vae": {},
    "training": {"steps": 12, "learning_rate": 1e-3},
    "search": {
        "strategy": {"name": "random"},
        "budget": 6,
        "clips": 6,
        "objectives": [f"loss@{VIDEO}", "loss", f"macs@{IMAGE}"],
        "constraints": [f"macs@{VIDEO} <= 100%", f"loss@{IMAGE} < 50"],
    },
    "front": {"subnets": 2, "evaluators": [], "prompts": ["a scene"], "sampling_steps": 2},
}


def pictures(rng: np.random.Generator, frames: int, height: int, width: int) -> np.ndarray:
    return (
        rng.integers(0, 256, (frames, height // 8, width // 8, 3), np.uint8)
        .repeat(8, 1)
        .repeat(8, 2)
    )


def called(*arguments: object) -> Result:
    result = CliRunner().invoke(main, [str(each) for each in arguments])
    assert result.exit_code == 0, result.output
    return result


@pytest.fixture(scope="module")
def folder(tiny, tmp_path_factory) -> Path:
    """A folder with a run of wide videos and upright images."""
    folder, rng = tmp_path_factory.mktemp("shapes"), np.random.default_rng(0)
    (folder / "videos" / "scene").mkdir(parents=True)
    for number in range(4):
        path = folder / "videos" / "scene" / str(number)
        video = pictures(rng, 6, 32, 64)
        timed = ((frame, time, Fraction(1, 8)) for time, frame in enumerate(video))
        path.with_suffix(".mp4").write_bytes(encode_timed(timed))
        Image.fromarray(pictures(rng, 1, 64, 48)[0]).save(path.with_name(f"image-{number}.jpg"))
    called("data", "pack", folder / "videos", folder / "shards")
    space = {"widths": [[8, 16], [16, 32]], "blocks_per_level": 1, "head_dim": 8, "group_size": 4}
    space |= {"name": "elastic_unet", "patch_size": 1, "conditioning_width": 32}
    space |= {"attention_levels": [1]}
    (folder / "recipe.yaml").write_text(tiny(**SECTIONS, space=space))
    called("run", folder / "recipe.yaml", "--out", folder / "run")
    return folder


def read(path: Path) -> dict:
    return json.loads(path.read_text())


def test_each_kind_of_clip_has_its_own_latents(folder: Path) -> None:
    counts = read(folder / "run/latents/complete.json")
    assert {name: part["samples"] for name, part in counts.items()} == {
        f"{resolution}/{split}": 4 for resolution in (VIDEO, IMAGE) for split in ("train", "val")
    }


def test_steps_are_trained_at_both(folder: Path) -> None:
    events = map(json.loads, (folder / "run/events.jsonl").read_text().splitlines())
    steps = [event for event in events if event["event"] == "step"]
    assert {event["resolution"] for event in steps} == {VIDEO, IMAGE}
    assert all(event["loss"] is not None for event in steps)


def test_metrics_and_fronts_are_of_both(folder: Path) -> None:
    record = (folder / "run/search/record.jsonl").read_text().splitlines()
    for line in map(json.loads, record):
        names = {f"{name}@{each}" for name in ("loss", "macs") for each in (VIDEO, IMAGE)}
        assert names <= line["metrics"].keys()
        macs = [line["metrics"][f"macs@{each}"] for each in (VIDEO, IMAGE)]
        assert macs[0] == pytest.approx(macs[1] * 16 * 32 * 4 / (32 * 24), rel=0.2)
    front = read(folder / "run/search/front.json")
    assert front["fronts"].keys() == front["hypervolume"].keys() == {VIDEO, IMAGE}


def test_samples_have_the_shape_of_their_resolution(folder: Path) -> None:
    samples = folder / "run/samples"
    for owner in samples.iterdir():
        if owner.is_dir():
            video, image = (read_mp4(owner / f"{each}-0.mp4") for each in (VIDEO, IMAGE))
            assert video.shape == (4, 128, 256, 3)
            assert image.shape == (1, 192, 144, 3)


def test_one_frame_is_sampled_as_an_image(folder: Path) -> None:
    (one, *_) = read(folder / "run/search/front.json")["members"]
    wanted = ["sample", folder / "run", "--subnet", one["id"], "--prompt", "a", "--steps", 2]
    where = folder / "one.png"
    called(*wanted, "--resolution", IMAGE, "--out", where)
    assert Image.open(where).size == (144, 192)
    said = (
        CliRunner()
        .invoke(main, [*map(str, wanted), "--resolution", VIDEO, "--out", str(where)])
        .output
    )
    assert f"one.png is an image, but {VIDEO} has several frames; use .mp4" in said


def test_the_report_shows_both(folder: Path) -> None:
    page = (folder / "run/report.html").read_text()
    for each in (VIDEO, IMAGE):
        assert re.search(rf"validation loss at {each}|>{each}<", page)
    assert "--aspect: 32 / 16" in page
    assert "--aspect: 24 / 32" in page


def test_a_resumed_run_finds_everything_done(folder: Path) -> None:
    assert "search" not in called("run", folder / "recipe.yaml", "--out", folder / "run").output


def test_what_is_no_resolution_is_not_sampled(folder: Path) -> None:
    wanted = ["sample", str(folder / "run"), "--subnet", "x", "--prompt", "a", "--resolution"]
    said = CliRunner().invoke(main, [*wanted, "9:9"]).output
    assert "'9:9' is not a resolution; write 64 for a square" in said
