"""Caption fidelity: its reader and its directions, on real clips and on nonsense."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from click.testing import CliRunner
from torch import nn
from torch.nn import functional as F

from nasvid.cli.main import main
from nasvid.data.digits import DIRECTIONS, motion_of
from nasvid.data.loader import BatchRequest, Cutting, load_batches
from nasvid.data.shards import index_shards
from nasvid.evaluator import Context
from nasvid.metrics.fidelity import CAPTIONS, MOTIONS, CaptionFidelity, prompts
from nasvid.metrics.motion import directions
from nasvid.metrics.reading import NOTHING, embedded_reader
from nasvid.shapes import Resolution, VideoShape
from nasvid.testing import EvaluatorConformance
from nasvid.testing.toy import ToySpace, toy_context


class TestCaptionFidelity(EvaluatorConformance):
    evaluator = CaptionFidelity
    options = {"videos": 3}  # noqa: RUF012


def held_out(side: int) -> tuple[torch.Tensor, list[str]]:
    index = index_shards("embedded:digits", Path(), "val")
    request = BatchRequest(
        number=0, resolution=Resolution.square(side), first=0, size=len(index.clips)
    )
    (batch,) = load_batches(
        index,
        [request],
        seed=0,
        workers=0,
        cutting=Cutting(frames=8, fps=8.0, flip=False, train=False),
    )
    return batch.video, batch.captions


@pytest.mark.slow
@pytest.mark.parametrize("side", [16, 24, 32])
def test_real_clips_show_what_their_captions_say(side: int) -> None:
    video, captions = held_out(side)
    motions = [motion_of(caption) for caption in captions]
    right = [m.digit == d for m, d in zip(motions, embedded_reader().read(video), strict=True)]
    assert sum(right) / len(right) >= 0.97
    assert directions(video) == [motion.direction for motion in motions]


def still(pictures: torch.Tensor) -> torch.Tensor:
    return pictures[:, None, None].expand(-1, 3, 4, -1, -1)


def test_what_is_no_digit_is_none() -> None:
    generator = torch.Generator().manual_seed(0)
    noise = torch.randn(50, 3, 4, 24, 24, generator=generator).clamp(-1, 1)
    coarse = torch.randn(50, 1, 5, 5, generator=generator)
    clouds = still(F.interpolate(coarse, 24, mode="bicubic")[:, 0].clamp(-1, 1))
    blank = torch.linspace(-1, 1, 5).view(5, 1, 1, 1, 1).expand(5, 3, 4, 24, 24)
    x = torch.linspace(-1, 1, 24)
    blobs = torch.stack([(-(x**2 + x[:, None] ** 2) / w**2).exp() for w in (0.3, 0.4, 0.5, 0.6)])
    for video, least in ((noise, 0.95), (clouds, 0.8), (blank, 1)):
        assert (embedded_reader().read(video) == NOTHING).double().mean() >= least
    assert set(embedded_reader().read(still(2 * blobs - 1)).tolist()) == {NOTHING}
    assert set(directions(still(2 * blobs - 1))) == {None}
    assert set(directions(blank)) == {None}


@pytest.mark.parametrize("ground", [-1.0, -0.6])
def test_a_spot_moves_where_it_moves_on_a_ground_that_is_not_black(ground: float) -> None:
    video = torch.full((4, 3, 8, 24, 24), ground)
    for number, (x, y) in enumerate(DIRECTIONS.values()):
        for frame in range(8):
            left, top = 9 + x * (frame - 4), 9 + y * (frame - 4)
            video[number, :, frame, top : top + 6, left : left + 6] = 1
    noise = torch.randn(video.shape, generator=torch.Generator().manual_seed(0))
    assert directions(video + 0.1 * noise) == list(DIRECTIONS)


def test_prompts_span_digits_and_directions_evenly() -> None:
    found = [motion_of(caption) for caption in prompts(["a man walks"], 120)]
    assert {found.count(motion) for motion in MOTIONS} == {3}
    backwards = CAPTIONS[::-1]
    assert prompts(backwards, 80) == list(backwards)
    assert prompts(backwards[:30], 4) == list(CAPTIONS[:4])
    assert prompts([*backwards, "a man walks"], 4) == list(CAPTIONS[:4])
    assert motion_of("the digit 3 moves slowly, left") is None


def shown(video: torch.Tensor, captions: list[str], context: Context) -> Context:
    def make(model: nn.Module, prompts: Sequence[str], shape: VideoShape) -> Iterator[torch.Tensor]:
        yield video

    return replace(context, make_videos=make, captions=captions)


@pytest.mark.slow
def test_shares_are_those_of_the_videos_that_do_as_named() -> None:
    video, captions = held_out(16)
    context = toy_context(ToySpace.of())
    arch = context.supernet.space.smallest
    config = CaptionFidelity.Config(videos=80)
    (real,) = CaptionFidelity(config, shown(video, captions, context)).evaluate([arch])
    assert real["digit"] >= 0.97
    assert real["direction"] == real["direction@4"] == 1
    backwards = shown(video.flip(2), captions, context)
    (turned,) = CaptionFidelity(config, backwards).evaluate([arch])
    assert turned["direction"] == 0
    assert turned["digit"] == pytest.approx(real["digit"], abs=0.02)
    (blank,) = CaptionFidelity(config, shown(video * 0 - 1, captions, context)).evaluate([arch])
    assert set(blank.values()) == {0}


@pytest.mark.slow
def test_other_captions_are_refused_before_training(
    write_recipe: Callable[..., Path], tmp_path: Path
) -> None:
    changes = ("data.val=embedded:footage", "front.evaluators=[{name: caption_fidelity}]")
    sets = [option for change in changes for option in ("--set", change)]
    out = tmp_path / "run"
    result = CliRunner().invoke(main, ["run", str(write_recipe()), "--out", str(out), *sets])
    assert result.exit_code == 2
    (message,) = result.stderr.splitlines()
    assert "front.evaluators[0]: 'caption_fidelity' is for digits that move" in message
    assert "embedded:digits" in message
    assert not (out / "checkpoints").exists()


def test_captions_of_digits_among_others_are_taken() -> None:
    CaptionFidelity.check_captions(CaptionFidelity.Config(), ["a man walks", CAPTIONS[0]])
