"""The evaluator of FVD and KVD: its metrics, its refusals, what its results depend on."""

import hashlib
import json
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import ClassVar

import pytest
import torch
import yaml
from click.testing import CliRunner
from pydantic import Field

from nasvid.cli.main import main
from nasvid.errors import UserError
from nasvid.evaluator import CaptionedClips, Context, EvaluatorSection
from nasvid.feature_extractor import FeatureExtractor
from nasvid.metrics.frechet import Moments, frechet_distance
from nasvid.metrics.kernel import kernel_distance
from nasvid.metrics.video_distance import VideoDistance
from nasvid.plugins import register
from nasvid.plugins.config import Config
from nasvid.preflight import load_recipe
from nasvid.run.evaluate import evaluated_with
from nasvid.shapes import Resolution
from nasvid.testing import EvaluatorConformance
from nasvid.testing.toy import SHAPES, SMALL, ToySpace, toy_context


class MeansConfig(Config):
    frames: int = Field(default=1)


@register("feature_extractors", "colour-means")
class Means(FeatureExtractor[MeansConfig]):
    """The mean of each colour."""

    @property
    def dim(self) -> int:
        return 3

    @property
    def min_frames(self) -> int:
        return self.config.frames

    def features(self, video: torch.Tensor) -> torch.Tensor:
        return video.mean(dim=(2, 3, 4))


MEANS = {"extractor": {"name": "colour-means"}, "videos": 40}
CLIPS = (32, 10)


class TestVideoDistance(EvaluatorConformance):
    evaluator = VideoDistance
    options: ClassVar = MEANS

    def context(self) -> Context:
        return toy_context(ToySpace.of(), batches=CLIPS)


@pytest.fixture
def context() -> Context:
    return toy_context(ToySpace.of(), batches=CLIPS)


def section(**options: object) -> EvaluatorSection:
    return EvaluatorSection.model_validate({"name": "video_distance", **options})


def test_only_the_reference_gives_metrics_called_fvd_and_kvd(tmp_path: Path) -> None:
    proper = section(extractor={"name": "i3d", "path": str(tmp_path / "i3d.pt")})
    assert [m.name for m in proper.metrics] == ["fvd", "fvd_ci95", "kvd", "kvd_ci95"]
    assert not any(metric.note for metric in proper.metrics)
    for own in (section(), section(extractor={"name": "colour-means"})):
        assert all("_proxy" in m.name or "_colour_means" in m.name for m in own.metrics)
        assert own.metrics[0].note == "not comparable with published FVD and KVD"
    kernel = section(distances=["kvd"]).metrics
    assert [(m.name, m.half_width_of) for m in kernel] == [
        ("kvd_proxy", ""),
        ("kvd_proxy_ci95", "kvd_proxy"),
    ]


def test_it_is_the_distance_of_the_features(context: Context) -> None:
    arch = context.supernet.space.largest
    (found,) = section(**MEANS).make(context).evaluate([arch])
    for side in SHAPES:
        real = torch.cat([batch.video for batch in context.clips(side)]).mean(dim=(2, 3, 4))
        made = context.sample(arch, side, n=40).mean(dim=(2, 3, 4))
        wanted = frechet_distance(Moments.of(real), Moments.of(made))
        assert found[f"fvd_colour_means@{side}"] == pytest.approx(wanted, rel=1e-9)
        wanted = kernel_distance(real, made)
        assert found[f"kvd_colour_means@{side}"] == pytest.approx(wanted, rel=1e-9)
        assert found[f"fvd_colour_means_ci95@{side}"] > 0


def test_held_out_clips_are_read_once_and_counted_once(context: Context) -> None:
    reads: list[int] = []

    def again(side: int) -> Iterator[CaptionedClips]:
        reads.append(side)
        for _ in range(2):
            for batch in context.clips(side):
                yield CaptionedClips(torch.cat([batch.video] * 2), batch.captions * 2)

    space = context.supernet.space
    evaluator = section(**MEANS).make(replace(context, clips=again))
    found = evaluator.evaluate([space.smallest, space.largest])
    assert reads == list(SHAPES)
    assert found == section(**MEANS).make(context).evaluate([space.smallest, space.largest])


@pytest.mark.parametrize(
    ("options", "clips", "parts"),
    [
        ({"videos": 47}, CLIPS, ("16 features of 'proxy'", "at least 48", "47 videos", "[kvd]")),
        ({"videos": 39, "distances": ["kvd"]}, CLIPS, ("at least 40", "39 videos")),
        ({"videos": 48}, CLIPS, ("search.clips to 48", "which is 42")),
        (MEANS | {"extractor": {"name": "colour-means", "frames": 3}}, CLIPS, ("3 frames", "2")),
    ],
)
def test_too_few_clips_or_frames_are_refused(options, clips, parts) -> None:
    own = section(**options).config
    with pytest.raises(UserError) as refused:
        VideoDistance.check(own, frames=2, clips=sum(clips))  # pyright: ignore[reportArgumentType]
    for part in parts:
        assert part in str(refused.value)


def test_too_few_different_clips_are_refused(context: Context) -> None:
    def few(side: int) -> Iterator[CaptionedClips]:
        for batch in context.clips(side):
            yield CaptionedClips(batch.video[torch.arange(42) % 21], batch.captions)

    evaluator = section(**MEANS).make(replace(context, clips=few))
    with pytest.raises(UserError, match=r"at least 40 clips, and there are 21 different held-out"):
        evaluator.evaluate([context.supernet.space.largest])


def test_what_cannot_be_evaluated_is_known_before_the_run(
    error_of: Callable[..., str], tiny: Callable[..., str], tmp_path: Path
) -> None:
    def message(**options: object) -> str:
        front = {"subnets": 2, "prompts": [], "evaluators": [{"name": "video_distance", **options}]}
        (tmp_path / "recipe.yaml").write_text(tiny(front=front))
        return error_of("run", "recipe.yaml", "--out", "run")

    assert "front.evaluators[0]" in (said := message(videos=8))
    assert "at least 48 clips" in said
    assert "i3d.pt does not exist" in message(extractor={"name": "i3d", "path": "i3d.pt"})
    torch.save({}, tmp_path / "i3d.pt")
    assert "i3d.pt has no TorchScript code" in message(extractor={"name": "i3d", "path": "i3d.pt"})
    torch.jit.script(torch.nn.Identity()).save(str(tmp_path / "i3d.pt"))
    said = message(extractor={"name": "i3d", "path": "i3d.pt"})
    assert "'i3d' needs clips of 16 frames, and these have 4" in said


def test_results_are_of_the_extractors_file(
    write_recipe: Callable[..., Path], tmp_path: Path
) -> None:
    recipe = load_recipe(write_recipe()).recipe
    file = tmp_path / "i3d.pt"
    own = section(extractor={"name": "i3d", "path": str(file)})
    made_with = []
    for content in (b"PK one", b"PK other"):
        file.write_bytes(content)
        made_with.append(evaluated_with(recipe, own))
        assert hashlib.sha256(content).hexdigest() in made_with[-1]["features"]
    assert made_with[0] != made_with[1]


@pytest.mark.slow
def test_a_run_evaluates_its_front_and_shows_the_intervals(
    tiny: Callable[..., str], tmp_path: Path
) -> None:
    recipe = yaml.safe_load(tiny())
    recipe["search"] |= {"clips": 48, "budget": 2}
    recipe["resolutions"] = {16: {"batch": 2}}
    recipe["front"] = {
        "subnets": 1,
        "prompts": [],
        "sampling_steps": 1,
        "evaluators": [{"name": "video_distance", "videos": 48}],
    }
    (tmp_path / "recipe.yaml").write_text(yaml.safe_dump(recipe))
    run = tmp_path / "run"
    done = CliRunner().invoke(main, ["run", str(tmp_path / "recipe.yaml"), "--out", str(run)])
    assert done.exit_code == 0, done.output
    after = json.loads((run / "evaluate/metrics.json").read_text())
    (found,) = after["metrics"].values()
    assert found["fvd_proxy"] == found["fvd_proxy@16"] > 10
    assert "sha256" in after["made_with"][0]["features"]
    page = (run / "report.html").read_text()
    assert f"{found['fvd_proxy@16']:.3g}"[:3] in page
    assert " ± " in page
    assert "FVD proxy: not comparable with published FVD and KVD." in page


def test_at_a_resolution_of_images_there_is_no_distance(context: Context) -> None:
    image = Resolution(4, 4, 1)
    both = replace(context, shapes={image: replace(SHAPES[SMALL], frames=1)} | dict(SHAPES))
    arch = context.supernet.space.smallest
    (found,), (alone,) = (section(**MEANS).make(each).evaluate([arch]) for each in (both, context))
    assert found == alone
    assert not any(key.endswith("x1") for key in found)
