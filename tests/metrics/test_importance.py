"""What blocks and units are worth: what is left out, and what is counted."""

import pytest
import torch

from nasvid.architecture import AtLeast
from nasvid.metrics.importance import first_clips, ranks, without_each, worth_of_blocks
from nasvid.metrics.loss import DenoisingLoss
from nasvid.metrics.unit_scores import unit_scores
from nasvid.testing.toy import ToySpace, toy_context
from nasvid.units import Place, Units


class Grouped(ToySpace):
    """The toy space, in which the hidden channels of each block are units."""

    def interchangeable(self):
        return [
            Units(
                f"blocks.{i}.hidden",
                8,
                (
                    Place(f"blocks.{i}.0.weight", 0),
                    Place(f"blocks.{i}.0.bias", 0),
                    Place(f"blocks.{i}.2.weight", 1),
                ),
            )
            for i in range(3)
        ]


@pytest.fixture
def context():
    found = toy_context(Grouped.of())
    with torch.no_grad():  # blocks that differ: the last does nothing, the second most
        for i, scale in enumerate((1.0, 4.0, 0.0)):
            last = found.supernet.net.blocks[str(i)][2]
            last.weight.mul_(scale)
            last.bias.mul_(scale)
    return found


def test_a_block_is_worth_what_the_loss_loses_without_it(context):
    found = {worth.name: worth for worth in worth_of_blocks(context, clips=3)}
    assert list(found) == ["block.0", "block.1", "block.2"]
    loss = DenoisingLoss(DenoisingLoss.Config(), context)
    space = context.supernet.space
    archs = [space.largest, without_each(space)["block.1"]]
    with_it, without = (metrics["loss"] for metrics in loss.evaluate(archs))
    assert found["block.1"].loss == pytest.approx(without - with_it, rel=1e-4)
    assert found["block.2"].loss == found["block.2"].outputs == found["block.2"].features == 0
    assert found["block.1"].outputs > found["block.0"].outputs > 0
    assert found["block.0"].features > 0  # of what the block after it computes


def test_the_first_clips_are_taken_of_each_resolution(context):
    assert [len(batch) for batch in first_clips(context, 1)] == [1, 1]
    assert [len(batch) for batch in first_clips(context, 3)] == [2, 1, 2, 1]


def test_what_a_rule_keeps_on_is_not_left_out():
    space = ToySpace.of()
    names = [f"block.{i}" for i in range(3)]
    space.rules = (AtLeast(tuple(names), 3),)
    assert without_each(space) == {}


def test_units_are_worth_what_the_loss_loses_to_first_order(context):
    scores = unit_scores(context, clips=3)
    net = context.supernet.net
    assert scores["gradients"]["blocks.2.hidden"].eq(0).all()
    weight = net.blocks["1"][2].weight
    expected = torch.zeros(8, dtype=torch.float64)
    clips = [clip for batch in first_clips(context, 3) for clip in batch.split(1)]
    for clip in clips:
        prediction = context.supernet.space.denoise(net, clip.inputs)
        (gradient,) = torch.autograd.grad(context.objective.loss(prediction, clip), weight)
        expected += (weight * gradient).detach().double().flatten(2).sum((0, 2)).abs()
    found = scores["gradients"]["blocks.1.hidden"]
    assert torch.allclose(found, expected / len(clips), rtol=1e-4)
    assert all(p.grad is None for p in net.parameters())


def test_units_that_are_read_strongly_or_have_large_values_are_worth_more(context):
    before = unit_scores(context, clips=3)["activations"]["blocks.1.hidden"]
    with torch.no_grad():
        context.supernet.net.blocks["1"][2].weight[:, 5] *= 10
    after = unit_scores(context, clips=3)["activations"]["blocks.1.hidden"]
    others = torch.arange(8) != 5
    ratio = after / before
    assert ratio[5] / ratio[others].mean() == pytest.approx(100, rel=1e-3)
    assert set(unit_scores(context, clips=1)["weights"]) == {
        units.name for units in context.supernet.space.interchangeable()
    }


def test_ranks_are_evenly_spaced():
    assert ranks({"a": 5.0, "b": -1.0}) == {"a": 0.75, "b": 0.25}
