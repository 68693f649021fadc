import dataclasses
from collections.abc import Iterator, Sequence
from typing import Any, ClassVar

import numpy as np
import pytest
import torch

from nasvid.errors import UserError
from nasvid.evaluator import (
    Context,
    Evaluator,
    EvaluatorSection,
    Metric,
    SharedVideos,
    evaluate_one,
)
from nasvid.metrics.cost import Cost, CostConfig, space_costs
from nasvid.metrics.latency import Latency
from nasvid.metrics.loss import DenoisingLoss
from nasvid.plugins.config import Config
from nasvid.shapes import Resolution, VideoShape
from nasvid.testing import EvaluatorConformance
from nasvid.testing.toy import LARGE, SHAPES, SMALL, ToySpace, toy_context


class TestCost(EvaluatorConformance):
    evaluator = Cost


class TestDenoisingLoss(EvaluatorConformance):
    evaluator = DenoisingLoss


class TestLatency(EvaluatorConformance):
    evaluator = Latency
    options: ClassVar = {"repeats": 2, "warm_up": 1}


@pytest.fixture
def context() -> Context:
    return toy_context(ToySpace.of())


def test_metrics_are_named_by_resolution() -> None:
    assert Metric("loss", "").keys(map(Resolution.parse, (128, "8x4x1", 64))) == [
        *("loss", "loss@8x4x1", "loss@64", "loss@128")
    ]
    images = [Resolution(8, 8, 1), Resolution(8, 8, 2), Resolution(8, 8)]
    assert Metric("fvd", "", of_motion=True).keys(images) == ["fvd", "fvd@8x8x2", "fvd@8"]
    assert Metric("params", "", per_resolution=False).keys([Resolution.square(64)]) == ["params"]


def test_costs_are_those_of_the_space(context: Context) -> None:
    space = context.supernet.space
    arch = space.sample(np.random.default_rng(0))
    (found,) = Cost(CostConfig(), context).evaluate([arch])
    macs = {side: space.cost(arch, "macs", shape) for side, shape in SHAPES.items()}
    assert found == {
        "params": sum(p.numel() for p in context.supernet.extract(arch).parameters()),
        "macs": sum(macs.values()) / len(macs),
        **{f"macs@{side}": value for side, value in macs.items()},
    }


def test_costs_of_many_are_the_costs_of_each(context: Context) -> None:
    space = context.supernet.space
    genomes = space.random_genomes(np.random.default_rng(0), 20)
    known = space_costs(space, SHAPES)
    for key in ("params", "macs", "macs@8"):
        cost = known[key]
        together = cost.of(genomes)
        alone = [cost.of(genome[None])[0] for genome in genomes]
        assert together.dtype == np.float64
        assert together.tolist() == alone


def test_loss_is_that_of_the_extracted_network_averaged_over_clips(context: Context) -> None:
    space = context.supernet.space
    arch = space.sample(np.random.default_rng(1))
    (found,) = DenoisingLoss(DenoisingLoss.Config(), context).evaluate([arch])
    alone = context.supernet.extract(arch)
    for side, (pair, single) in context.batches.items():
        with torch.no_grad():
            losses = [
                context.objective.loss(space.denoise(alone, batch.inputs), batch).item()
                for batch in (pair, single)
            ]
        assert found[f"loss@{side}"] == pytest.approx((2 * losses[0] + losses[1]) / 3, rel=1e-6)


def test_every_candidate_sees_the_same_noise(context: Context) -> None:
    """The same weights under two architectures of the supernet score the same, to the bit."""
    space = context.supernet.space
    before = [batch.inputs.sample.clone() for b in context.batches.values() for batch in b]
    first = DenoisingLoss(DenoisingLoss.Config(), context).evaluate([space.largest, space.smallest])
    again = DenoisingLoss(DenoisingLoss.Config(), context).evaluate([space.smallest, space.largest])
    assert first == again[::-1]
    after = [batch.inputs.sample for b in context.batches.values() for batch in b]
    assert all(torch.equal(a, b) for a, b in zip(before, after, strict=True))


def test_loss_is_evaluated_in_the_precision_that_the_context_says(context: Context) -> None:
    arch = context.supernet.space.largest
    low = dataclasses.replace(context, autocast=torch.bfloat16)
    (full,) = DenoisingLoss(DenoisingLoss.Config(), context).evaluate([arch])
    (half,) = DenoisingLoss(DenoisingLoss.Config(), low).evaluate([arch])
    assert half["loss"] != full["loss"]
    assert half["loss"] == pytest.approx(full["loss"], rel=0.05)


def test_latency_tells_a_small_network_from_the_largest() -> None:
    space = ToySpace.of(widths=(2, 512), blocks=2)
    latency = Latency(Latency.Config(repeats=15), toy_context(space))
    small, large = both = latency.evaluate([space.smallest, space.largest])
    assert next(iter(small)).startswith("latency_rel")
    for side in SHAPES:
        assert small[f"latency_rel@{side}"] < 0.7 * large[f"latency_rel@{side}"]
        assert small[f"latency_ms@{side}"] < large[f"latency_ms@{side}"]
        of_largest = [each[f"latency_ms@{side}"] / each[f"latency_rel@{side}"] for each in both]
        assert of_largest[0] == pytest.approx(of_largest[1])
        assert 0.25 < large[f"latency_rel@{side}"] < 4


class Returns(Evaluator):
    """Returns the metrics that a test gives it."""

    metrics = (Metric("score", "points", per_resolution=False),)
    found: object = ()

    def evaluate(self, architectures: Sequence[object]) -> Any:
        return self.found


@pytest.mark.parametrize(
    ("found", "said"),
    [
        ([{"score": None}], "must return a number for score, not None"),
        ([{"score": "0.5"}], "must return a number for score, not '0.5'"),
        ([{"score": torch.ones(2)}], "must return a number for score, not tensor"),
        ([{"other": 1.0}], "declares the metrics score but returns other"),
        ([{}], "declares the metrics score but returns"),
        ([], "one dictionary of metrics for each architecture"),
        (None, "one dictionary of metrics for each architecture"),
        ([3.0], "one dictionary of metrics for each architecture"),
    ],
)
def test_what_an_evaluator_must_not_return(context: Context, found: object, said: str) -> None:
    evaluator = Returns(Returns.Config(), context)
    evaluator.found = found
    with pytest.raises(UserError, match=f"Evaluator Returns .*{said}"):
        evaluate_one(evaluator, context.supernet.space.smallest)


@pytest.mark.parametrize("value", [1, np.float32(1), torch.ones(()), 1.0])
def test_a_number_of_any_library_is_a_metric(context: Context, value: object) -> None:
    evaluator = Returns(Returns.Config(), context)
    evaluator.found = [{"score": value}]
    found = evaluate_one(evaluator, context.supernet.space.smallest)["score"]
    assert type(found) is float
    assert found == 1


def test_only_latency_is_measured() -> None:
    def measured(evaluator: type[Evaluator]) -> set[bool]:
        return {metric.measured for metric in evaluator.declare(evaluator.Config())}

    assert measured(Cost) == measured(DenoisingLoss) == {False}
    assert measured(Latency) == {True}


def test_one_that_samples_without_declaring_it_is_stopped(context: Context) -> None:
    class Secretly(Evaluator):
        metrics = (Metric("brightness", "", per_resolution=False),)

        def evaluate(self, architectures):
            videos = [self.context.sample(arch, LARGE, n=2) for arch in architectures]
            return [{"brightness": video.mean().item()} for video in videos]

    class Openly(Secretly):
        makes_videos = True

    def make(cls: type[Evaluator]) -> Evaluator:
        class Section(EvaluatorSection):
            @property
            def cls(self) -> type[Evaluator]:
                return cls

        return Section.model_construct(name="brightness", config=Config()).make(context)

    arch = context.supernet.space.smallest
    assert -1 < make(Openly).evaluate([arch])[0]["brightness"] < 1
    with pytest.raises(UserError, match=r"'brightness' samples videos.*makes_videos = True"):
        make(Secretly).evaluate([arch])


def test_samples_are_of_held_out_captions_and_the_same_noise(context: Context) -> None:
    space = context.supernet.space
    largest = context.sample(space.largest, LARGE)
    assert largest.shape == (3, 3, 2, 8, 8)
    assert torch.equal(context.sample(context.supernet.net, LARGE, context.captions), largest)
    assert torch.allclose(context.sample(space.largest, LARGE, n=2), largest[:2], atol=1e-5)
    assert torch.equal(torch.cat(list(context.sample_batches(space.largest, LARGE))), largest)
    assert not torch.equal(context.sample(space.largest, LARGE, ["another"]), largest[:1])
    with pytest.raises(UserError, match=r"4 videos.*3 prompts"):
        context.sample(space.largest, LARGE, n=4)
    (clips,) = context.clips(LARGE)
    assert clips.video.shape == largest.shape
    assert clips.captions == list(context.captions)


def test_videos_of_an_architecture_are_sampled_once_for_all_evaluators(context: Context) -> None:
    made: list[int] = []

    def make(
        model: torch.nn.Module, prompts: Sequence[str], shape: VideoShape
    ) -> Iterator[torch.Tensor]:
        made.append(len(prompts))
        yield from context.make_videos(model, prompts, shape)

    counted, space = dataclasses.replace(context, make_videos=make), context.supernet.space
    one = dataclasses.replace(counted)
    other = dataclasses.replace(counted)
    first = one.sample(space.largest, LARGE)
    expected = first.clone()
    first.zero_()
    again = other.sample(space.largest, LARGE, list(context.captions))
    assert torch.equal(again, expected)
    again.zero_()
    assert torch.equal(one.sample(space.largest, LARGE), expected)
    assert made == [3]
    one.sample(space.largest, SMALL)
    other.sample(space.largest, LARGE)
    assert made == [3, 3]
    one.sample(space.largest, LARGE, n=2)
    assert made == [3, 3, 2]
    assert not torch.equal(one.sample(space.smallest, LARGE), expected)
    one.sample(context.supernet.net, LARGE)
    one.sample(context.supernet.net, LARGE)
    assert made == [3, 3, 2, 3, 3, 3]
    part = one.sample_batches(space.largest, LARGE)
    next(part)
    part.close()
    assert torch.equal(one.sample(space.largest, LARGE), expected)


def test_too_many_videos_are_not_kept(context: Context, monkeypatch: pytest.MonkeyPatch) -> None:
    largest, made = context.supernet.space.largest, []

    def make(*arguments: Any) -> Iterator[torch.Tensor]:
        made.append(1)
        yield from context.make_videos(*arguments)

    counted = dataclasses.replace(context, make_videos=make)
    size = counted.sample(largest, LARGE).nbytes
    monkeypatch.setattr("nasvid.evaluator.SHARED", size - 1)
    counted.sample(largest, LARGE, n=2)
    again = dataclasses.replace(counted, shared=SharedVideos())
    assert torch.equal(again.sample(largest, LARGE), again.sample(largest, LARGE))
    assert len(made) == 4
