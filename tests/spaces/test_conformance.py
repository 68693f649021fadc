"""The suite itself: it passes a good space, and each law that a space breaks fails."""

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from nasvid.architecture import Choice
from nasvid.layout import Layout
from nasvid.plugins.config import Config
from nasvid.shapes import Domain, VideoShape
from nasvid.slices import Segments
from nasvid.space import SearchSpace
from nasvid.supernet import Supernet
from nasvid.testing import SpaceConformance
from nasvid.testing.steps import noisy_clips
from nasvid.testing.toy import SHAPES, SMALL, ToyNet, ToySpace
from nasvid.testing.widened import SAME, Widening, at_start, scatter
from nasvid_spaces.diffusers_model import CogVideoXSpace, LatteSpace, WanSpace

pytestmark = pytest.mark.slow


class TestToy(SpaceConformance):
    shape = SHAPES[SMALL]

    @pytest.fixture
    def space(self):
        return ToySpace.of()


SUITE = TestToy()


def broken(**replaced) -> ToySpace:
    return type("Broken", (ToySpace,), replaced).of()


def all_of(space: ToySpace):
    rng = np.random.default_rng(0)
    return [space.smallest, space.largest, *(space.sample(rng) for _ in range(10))]


def test_options_from_dearest_to_cheapest_are_found():
    space = ToySpace.of(widths=(8, 4, 2))
    with pytest.raises(AssertionError, match="falls as a choice rises"):
        SUITE.test_costs_rise_with_every_choice(space, np.random.default_rng(0))


def test_wrong_formulas_are_found():
    def costs(self, genomes, shape):
        found = ToySpace.costs(self, genomes, shape)
        found.macs[:] += 1
        return found

    space = broken(costs=costs)
    with pytest.raises(AssertionError):
        SUITE.test_costs_are_what_is_counted(space, all_of(space))


def test_a_choice_that_changes_nothing_is_found():
    def make_choices(self):
        return [*ToySpace.make_choices(self), Choice("mood", ("calm", "gay"))]

    space = broken(
        make_choices=make_choices,
        costs=lambda self, genomes, shape: ToySpace.costs(self, genomes[:, :-1], shape),
    )
    with pytest.raises(AssertionError, match="choice 'mood' changes nothing"):
        SUITE.test_two_names_are_two_networks(space, np.random.default_rng(0))


def test_a_layout_without_a_choice_is_found():
    space = broken(layout=lambda self: Layout.by_prefix(self.choices[1:]))
    with pytest.raises(ValueError, match="is in 0 parts"):
        SUITE.test_every_choice_has_one_place_in_the_layout(space)


def test_models_that_exports_cannot_carry_are_found(monkeypatch):
    space = broken(model_module="nasvid.testing.toy")
    check = SpaceConformance().test_code_that_exports_carry_builds_the_same_models
    with pytest.raises(AssertionError, match="ToyNet is no ModelMixin"):
        check(space, monkeypatch)
    space = broken(model_module="nasvid.testing.toy", denoise=lambda self, model, x: x.sample)
    with pytest.raises(AssertionError, match=r"denoise\(\) itself is not carried"):
        check(space, monkeypatch)


def test_parameters_that_are_no_slices_are_found():
    def build(self, arch):
        net = ToySpace.build(self, arch)
        net.extra = torch.nn.Parameter(torch.ones(16 // int(arch["width"])))
        return net

    space = broken(build=build)
    with pytest.raises(ValueError, match="extra: dimension 0 keeps 8 of 2"):
        SUITE.test_networks_are_slices_of_the_largest(space, Supernet(space), all_of(space))


def made_of(net: type[ToyNet]) -> ToySpace:
    def build(self, arch):
        model = ToySpace.build(self, arch)
        model.__class__ = net
        return model

    return broken(build=build)


def test_a_network_that_depends_on_more_than_its_weights_is_found():
    class Moody(ToyNet):
        calls = 0

        def forward(self, *args):
            Moody.calls += 1
            return super().forward(*args) * Moody.calls

    space = made_of(Moody)
    inputs = noisy_clips(space, TestToy.shape)
    with pytest.raises(AssertionError, match=r"mode eval of Architecture.* differs in"):
        SUITE.test_a_subnet_is_its_extraction_bit_for_bit(
            space, Supernet(space), all_of(space), inputs
        )


def test_a_network_may_divide_by_its_number_of_tokens():
    """There is always one: a mask without any never comes."""

    class Mean(ToyNet):
        def forward(self, sample, timestep, context, context_mask, fps):
            share = context_mask / context_mask.sum(1, keepdim=True)
            context = context * share[..., None]
            return super().forward(sample, timestep, context, context_mask, fps)

    space = made_of(Mean)
    inputs = noisy_clips(space, TestToy.shape)
    SUITE.test_predictions_are_shaped_like_the_video(space, Supernet(space), inputs)
    SUITE.test_a_subnet_is_its_extraction_bit_for_bit(space, Supernet(space), all_of(space), inputs)


def test_a_network_that_gives_nan_is_said_to_give_nan():
    class Wordy(ToyNet):
        def forward(self, sample, timestep, context, context_mask, fps):
            others = context_mask[:, 1:] / context_mask[:, 1:].sum(1, keepdim=True)
            context = context[:, 1:] * others[..., None]
            return super().forward(sample, timestep, context, context_mask[:, 1:], fps)

    space = made_of(Wordy)
    inputs = noisy_clips(space, TestToy.shape)
    with pytest.raises(AssertionError, match=r"the prediction of .* numbers are NaN"):
        SUITE.test_predictions_are_shaped_like_the_video(space, Supernet(space), inputs)
    with pytest.raises(AssertionError, match=r"the prediction in mode eval .* numbers are NaN"):
        SUITE.test_a_subnet_is_its_extraction_bit_for_bit(
            space, Supernet(space), all_of(space), inputs
        )


class Fused(torch.nn.Module):
    """An attention over all positions, whose query, key and value are one layer."""

    def __init__(self, domain, width):
        super().__init__()
        self.stem = torch.nn.Linear(domain.channels, width)
        self.qkv = torch.nn.Linear(width, 3 * width)
        self.head = torch.nn.Linear(width, domain.channels)

    def forward(self, sample, timestep, context, context_mask, fps):
        x = self.stem(sample.flatten(2).transpose(1, 2))
        q, k, v = self.qkv(x)[:, None].chunk(3, dim=-1)
        attended = F.scaled_dot_product_attention(q, k, v, scale=1 / q.shape[-1])[:, 0]
        return self.head(attended).transpose(1, 2).reshape(sample.shape)


class FusedSpace(SearchSpace):
    thirds = True

    def make_choices(self):
        return [Choice("width", (8, 16))]

    def build(self, arch):
        return Fused(self.domain, arch["width"])

    def slice_rules(self, arch):
        parts = Segments.prefixes([arch["width"]] * 3, [16] * 3)
        names = ("qkv.weight", "qkv.bias")
        return {name: {0: parts} for name in names} if self.thirds else {}


def test_a_prefix_of_fused_parts_is_found_though_its_bits_agree():
    space = FusedSpace(Config(), Domain())
    SUITE.test_slices_keep_a_prefix_of_each_part(space, Supernet(space))
    space = type("Missed", (FusedSpace,), {"thirds": False})(Config(), Domain())
    inputs = noisy_clips(space, TestToy.shape)
    archs = [space.smallest]
    SUITE.test_a_subnet_is_its_extraction_bit_for_bit(space, Supernet(space), archs, inputs)
    said = r"several parts; taking dimension 0 of 'qkv.(weight|bias)' as 3 parts leaves 0.0%"
    with pytest.raises(pytest.fail.Exception, match=said):
        SUITE.test_slices_keep_a_prefix_of_each_part(space, Supernet(space))


@pytest.mark.parametrize("tensor", ["time_proj", "ff.net.0.proj", "norm1.linear"])
def test_each_fused_dimension_that_a_shipped_space_could_miss_is_found(tiny_space, tensor):
    cls = {"time_proj": WanSpace, "norm1.linear": CogVideoXSpace}.get(tensor, LatteSpace)

    def kept(self, at):
        return None if tensor in at.tensor else cls.kept(self, at)

    space = tiny_space(cls)
    space.__class__ = type("Missed", (cls,), {"kept": kept})
    supernet = Supernet(space)
    scatter(supernet.net.eval())
    inputs = noisy_clips(space, VideoShape.square(8, frames=4, context_len=3))
    found = Widening.every(supernet)
    assert max(wide.difference(at_start(inputs)) for wide in found) > 10 * SAME


def test_parts_that_are_not_multiples_are_not_compared():
    space = ToySpace.of(widths=(5, 8))
    with pytest.raises(pytest.skip.Exception, match="no option of a width is a half"):
        SUITE.test_slices_keep_a_prefix_of_each_part(space, Supernet(space))
