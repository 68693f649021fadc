"""The classes of diffusers that ship as spaces: the laws of a space, and what is refused."""

from dataclasses import asdict

import numpy as np
import pytest
import torch

from nasvid.errors import UserError
from nasvid.shapes import Domain, VideoShape
from nasvid.space import SearchSpace
from nasvid.supernet import Supernet
from nasvid.testing import SpaceConformance
from nasvid_spaces.diffusers_model import (
    CogVideoXSpace,
    DiffusersModelSpace,
    HunyuanVideoSpace,
    LatteSpace,
    LTXSpace,
    UNet3DSpace,
    WanSpace,
)
from nasvid_spaces.diffusers_model.frequencies import nearest_frequencies
from nasvid_spaces.diffusers_model.space import spread

SHAPE = VideoShape.square(8, frames=4, context_len=3)
SMALL = VideoShape.square(4, frames=2, context_len=3)


class OfDiffusers(SpaceConformance):
    of: type[DiffusersModelSpace]
    shape = SHAPE
    architectures = 4

    @pytest.fixture(scope="class")
    @classmethod
    def space(cls, tiny_space):
        return tiny_space(cls.of)


@pytest.mark.slow
class TestUNet3D(OfDiffusers):
    of = UNet3DSpace


@pytest.mark.slow
class TestWan(OfDiffusers):
    of = WanSpace


@pytest.mark.slow
class TestLTX(OfDiffusers):
    # One token: rotary positions over the whole width have other frequencies in other widths.
    wide_shape = VideoShape.square(1, frames=1, context_len=3)
    of = LTXSpace


class TestLatte(OfDiffusers):
    of = LatteSpace


@pytest.mark.slow
class TestCogVideoX(OfDiffusers):
    shape = SMALL
    architectures = 3
    of = CogVideoXSpace


@pytest.mark.slow
class TestHunyuanVideo(OfDiffusers):
    shape = SMALL
    architectures = 3
    of = HunyuanVideoSpace


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
        (WanSpace, {"choices": {"num_layers": {"keep": 3}}}, "of 3 blocks, 3 are to be kept"),
        (WanSpace, {"choices": {"ffn_dim": {"keep": 3}}}, "only num_layers can of Wan"),
        (UNet3DSpace, {"choices": {"layers_per_block": {"keep": 1}}}, "no setting can of UNet3D"),
        (WanSpace, {"choices": {"ffn_dim+num_layerz": [1, 2]}}, "cannot be searched; Wan"),
        (WanSpace, {"choices": {"num_attention_heads+ffn_dim": [1, 2]}}, "is driven twice"),
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
        (WanSpace, VideoShape.square(66, frames=4, context_len=3), "height 66 .* use 64 at most"),
        (WanSpace, VideoShape.square(8, frames=33, context_len=3), "frames 33 .* use 32 at most"),
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


def test_two_levels_can_be_one_choice(tiny_space):
    """The text-to-video UNet's widths, divided by 40, with its shortcuts only where they differ."""
    config = {
        "down_block_types": ["CrossAttnDownBlock3D"] * 3 + ["DownBlock3D"],
        "up_block_types": ["UpBlock3D"] + ["CrossAttnUpBlock3D"] * 3,
        "block_out_channels": [8, 16, 32, 32],
    }
    alone = {"block_out_channels.0": [4, 8], "block_out_channels.1": [12, 16]}
    tied = tiny_space(
        UNet3DSpace, config=config, choices=alone | {"block_out_channels.2+3": [20, 32]}
    )
    assert tied.settings(tied.smallest)["block_out_channels"] == [4, 12, 20, 20]
    assert tied.cost(tied.smallest, "params", SHAPE) < 0.5 * tied.cost(
        tied.largest, "params", SHAPE
    )
    assert [part.name for part in tied.layout().parts] == ["level 0", "level 1", "levels 2, 3"]
    apart = alone | {"block_out_channels.2": [20, 32], "block_out_channels.3": [20, 32]}
    with pytest.raises(ValueError, match=r"or one choice: block_out_channels.2\+3"):
        tiny_space(UNet3DSpace, config=config, choices=apart)


def test_a_subnet_has_any_blocks_numbered_anew(tiny_space):
    space = tiny_space(WanSpace, config={"num_layers": 4})
    supernet = Supernet(space)
    kept = {"blocks.0": True, "blocks.1": False, "blocks.2": False, "blocks.3": True}
    arch = space.architecture({**space.largest, **kept})
    model = supernet.extract(arch)
    assert space.settings(arch)["num_layers"] == len(model.blocks) == 2
    for place, number in enumerate((0, 3)):
        own, theirs = (m.state_dict() for m in (model.blocks[place], supernet.net.blocks[number]))
        assert all(torch.equal(own[name], theirs[name]) for name in theirs)
    assert {name.split(".")[1] for name in supernet.slices(arch) if name.startswith("blocks.")} == {
        "0",
        "3",
    }


def test_a_list_of_depths_keeps_the_first_blocks(tiny_space):
    space = tiny_space(WanSpace, config={"num_layers": 3}, choices={"num_layers": [1, 3]})
    arch = space.architecture({**space.largest, "num_layers": 1})
    first = dict(Supernet(space).extract(arch).named_parameters())
    assert {name for name in first if name.startswith("blocks.")} == {
        name for name in space.full_shapes if name.startswith("blocks.0.")
    }


def test_subnets_with_as_many_blocks_are_counted_once(tiny_space, monkeypatch):
    space = tiny_space(WanSpace, config={"num_layers": 4})
    counted = []
    monkeypatch.setattr(
        space,
        "counted",
        lambda arch, *of: counted.append(arch) or WanSpace.counted(space, arch, *of),
    )
    genomes = np.array([space.encode(space.largest)] * 4)
    columns = [i for i, choice in enumerate(space.choices) if choice.name.startswith("blocks.")]
    genomes[:, columns] -= np.eye(4, dtype=int)
    params = space.costs(genomes, SHAPE).params
    assert len(counted) == 1
    assert len({*params.tolist()}) == 1


@pytest.mark.parametrize("cls", [CogVideoXSpace, HunyuanVideoSpace, LatteSpace, LTXSpace, WanSpace])
def test_the_costs_of_many_blocks_follow_from_those_of_few(tiny_space, cls):
    space = tiny_space(cls, config=dict.fromkeys(cls.blocks, 6))
    whole = SearchSpace.counted(space, space.largest, SHAPE)
    built = []
    inner, space.model_class = space.model_class, lambda **of: built.append(of) or inner(**of)
    assert asdict(space.counted(space.largest, SHAPE)) == asdict(whole)
    assert all(of[name] <= 3 for of in built for name in cls.blocks)


@pytest.mark.parametrize(("count", "order"), [(1, [0]), (2, [0, 1]), (5, [0, 4, 2, 1, 3])])
def test_the_ends_of_a_stack_go_last(count, order):
    assert spread(count) == order


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


def test_hidden_states_are_compared_where_the_next_block_kept_begins(tiny_space):
    space = tiny_space(WanSpace, config={"num_layers": 5})
    off = {f"blocks.{i}": False for i in (0, 2, 4)}
    assert space.feature_points(space.architecture({**space.largest, **off})) == {
        "blocks.0": "blocks.2",  # block 1, and 2, which is left out
        "blocks.1": "blocks.4",
    }
    assert space.feature_points(space.largest) == {f"blocks.{i}": f"blocks.{i}" for i in range(5)}
    both = tiny_space(LatteSpace)
    spatial, temporal = both.blocks["num_layers"]
    last = both.architecture({**both.largest, f"{spatial}.0": False})
    assert both.feature_points(last) == {f"{name}.0": f"{name}.1" for name in (spatial, temporal)}
