"""The classes of diffusers that ship as spaces: the laws of a space, and what is refused."""

import pytest

from nasvid.errors import UserError
from nasvid.shapes import Domain, VideoShape
from nasvid.testing import SpaceConformance
from nasvid_spaces.diffusers_model import (
    DiffusersModelSpace,
    LatteSpace,
    LTXSpace,
    UNet3DSpace,
    WanSpace,
)
from nasvid_spaces.diffusers_model.unet3d import nearest_frequencies


class OfDiffusers(SpaceConformance):
    shape = VideoShape.square(8, frames=4, context_len=3)
    architectures = 4


@pytest.mark.slow
class TestUNet3D(OfDiffusers):
    @pytest.fixture
    def space(self, tiny_space):
        return tiny_space(UNet3DSpace)


@pytest.mark.slow
class TestWan(OfDiffusers):
    @pytest.fixture
    def space(self, tiny_space):
        return tiny_space(WanSpace)


@pytest.mark.slow
class TestLTX(OfDiffusers):
    @pytest.fixture
    def space(self, tiny_space):
        return tiny_space(LTXSpace)


class TestLatte(OfDiffusers):
    @pytest.fixture
    def space(self, tiny_space):
        return tiny_space(LatteSpace)


@pytest.mark.parametrize(
    ("cls", "changes", "said"),
    [
        (UNet3DSpace, {"choices": {"block_out_channels.1": [8, 16]}}, "may both be 8 or differ"),
        (UNet3DSpace, {"choices": {"block_out_channels.1": [10, 16]}}, "10 is not a multiple of"),
        (UNet3DSpace, {"choices": {"layers_per_block": [1, 2]}}, "takes a different skip"),
        (
            UNet3DSpace,
            {"choices": {"block_out_channels.2": [8]}},
            r"one of block_out_channels.0, block_out_channels.1",
        ),
        (UNet3DSpace, {"choices": {"block_out_channels": [8]}}, "one of block_out_channels.0, "),
        (UNet3DSpace, {"choices": {"act_fn": [8]}}, "allows block_out_channels"),
        (UNet3DSpace, {"config": {"layer_per_block": 2}}, "did you mean 'layers_per_block'"),
        (
            UNet3DSpace,
            {"config": {"in_channels": 9}},
            "3 follows from the recipe's other settings",
        ),
        (WanSpace, {"choices": {"ffn_dim": [24, 16]}}, "are not ascending"),
        (WanSpace, {"choices": {"ffn_dim": []}}, "choices.ffn_dim is empty"),
        (WanSpace, {"choices": {"ffn_dim.0": [16, 24]}}, "one of ffn_dim$"),
        (WanSpace, {"choices": {"attention_head_dim": [6, 12]}}, "not a slice of a longer one"),
        (LTXSpace, {"choices": {"cross_attention_dim": [16, 24]}}, "it is the width"),
        (LatteSpace, {"config": {"patch_size": None}}, "needs a patch_size"),
    ],
)
def test_what_makes_no_space_is_refused_with_the_reason(tiny_space, cls, changes, said):
    with pytest.raises(ValueError, match=said):
        tiny_space(cls, **changes)


def test_levels_that_are_always_alike_need_no_shortcut(tiny_space):
    alike = {"block_out_channels.0": [8], "block_out_channels.1": [8]}
    space = tiny_space(UNet3DSpace, choices=alike)
    assert not any("down_blocks.1.resnets.0.conv_shortcut" in name for name in space.full_shapes)


def test_widths_of_levels_are_drawn_as_a_u_and_other_settings_as_rows(tiny_space):
    parts = tiny_space(UNet3DSpace).layout().parts
    assert [(part.side, part.level) for part in parts] == [("across", n) for n in range(len(parts))]
    rows = tiny_space(WanSpace).layout().parts
    assert all(part.side is None for part in rows)
    assert "num attention heads" in [part.name for part in rows]


@pytest.mark.parametrize(
    ("cls", "shape", "said"),
    [
        (WanSpace, VideoShape.square(9, frames=4, context_len=3), "height 9 is not a multiple"),
        (LatteSpace, VideoShape.square(8, frames=5, context_len=3), "5 frames, but .* is 4"),
        (LatteSpace, VideoShape.square(9, frames=4, context_len=3), "9 is not a multiple"),
    ],
)
def test_videos_that_a_class_cannot_take(tiny_space, cls, shape, said):
    with pytest.raises(ValueError, match=said):
        tiny_space(cls).check_shape(shape)


def test_a_narrow_embedding_of_time_takes_the_nearest_frequencies():
    kept = nearest_frequencies(8, 16)
    columns = [column for start, stop in kept for column in range(start, stop)]
    assert columns == [0, 2, 4, 6, 8, 10, 12, 14]  # of 16, each second: the same frequencies
    assert nearest_frequencies(16, 16) == ((0, 16),)
    assert nearest_frequencies(12, 16).length == 12


class MochiSpace(DiffusersModelSpace):
    """Its last block differs from the others, so models of two depths share no names."""

    model = "MochiTransformer3DModel"
    searchable = ("num_attention_heads", "num_layers")

    def derived(self, settings):
        return {"in_channels": self.domain.channels, "text_embed_dim": self.domain.context_dim}

    def denoise(self, model, x):
        return model(x.sample, x.context, x.timestep, x.context_mask, return_dict=False)[0]


def test_a_setting_whose_models_are_no_slices_is_refused_when_the_space_is_made():
    settings = {"attention_head_dim": 8, "num_layers": 2, "pooled_projection_dim": 8}
    choices = {"num_attention_heads": [1, 2], "num_layers": [2, 3]}
    config = MochiSpace.Config(config=settings, choices=choices)
    with pytest.raises(UserError, match=r"'num_layers' 2 and 3 cannot.*'transformer_blocks\.1\."):
        MochiSpace(config, Domain())
    config = MochiSpace.Config(config=settings, choices={"num_attention_heads": [1, 2]})
    assert MochiSpace(config, Domain()).size == 2
