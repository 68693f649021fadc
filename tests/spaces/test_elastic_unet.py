from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml

from nasvid.shapes import Domain, VideoShape
from nasvid.testing import SpaceConformance
from nasvid.testing.steps import gradients, noisy_clips, step
from nasvid_spaces.elastic_unet import ElasticUNetSpace, VideoUNet

pytestmark = pytest.mark.slow

LAYERS = (
    "spatial_conv",
    "temporal_conv",
    "self_attention",
    "cross_attention",
    "temporal_attention",
)
TINY = {
    "widths": ((8, 16), (16, 24)),
    "blocks_per_level": 1,
    "attention_levels": (1,),
    "switchable": LAYERS,
    "conditioning_width": 16,
    "head_dim": 8,
    "group_size": 4,
    "patch_size": 2,
}
SHAPE = VideoShape(frames=3, height=8, width=12, context_len=2)
RECIPE = Path(__file__).parents[2] / "recipes" / "sned_pixel.yaml"


def unet_space(**options) -> ElasticUNetSpace:
    config = ElasticUNetSpace.Config(**(TINY | options))
    return ElasticUNetSpace(config, Domain(channels=3, context_dim=8))


def unet(space: ElasticUNetSpace, arch=None) -> VideoUNet:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return space.build(space.largest if arch is None else arch)


def of_recipe(scale: str, context_dim: int) -> ElasticUNetSpace:
    space = yaml.safe_load(RECIPE.read_text())["scales"][scale]["space"]
    assert space.pop("name") == "elastic_unet"
    return ElasticUNetSpace(ElasticUNetSpace.Config(**space), Domain(context_dim=context_dim))


class TestElasticUNet(SpaceConformance):
    shape = SHAPE
    architectures = 12

    @pytest.fixture(scope="class")
    @classmethod
    def space(cls):
        return unet_space()


class TestElasticUNetOfMoreBlocks(SpaceConformance):
    """Of three levels, wider, where the convolutions of second blocks can be off."""

    shape = VideoShape(frames=4, height=16, width=8, context_len=3)
    architectures = 6

    @pytest.fixture(scope="class")
    @classmethod
    def space(cls):
        return unet_space(
            widths=((8,), (24, 32), (32, 48)),
            blocks_per_level=2,
            attention_levels=(0, 2),
            hidden_ratios=(0.5, 1.0, 1.5),
        )


def test_no_subnet_is_blind_and_every_level_computes():
    model = unet(unet_space(blocks_per_level=2), unet_space(blocks_per_level=2).smallest)
    for side in (model.down, model.up):
        for level in side:
            assert level[0].spatial_conv is not None
            assert level[1].spatial_conv is None
    assert model.middle.cross_attention is not None
    assert model.middle.temporal_attention is not None
    assert model.middle.self_attention is None


def test_only_what_is_switchable_can_be_off():
    space = unet_space(switchable=("self_attention",))
    switches = {c.name for c in space.choices if c.options == (False, True)}
    assert switches == {f"{at}.self_attention" for at in ("down.1.0", "middle", "up.1.0")}


def test_the_papers_scale_has_the_papers_sizes():
    """SNED (arXiv 2406.00195) reports subnets from 640 million to 1.6 billion parameters."""
    space = of_recipe("paper", 1024)
    shape = VideoShape.square(64, frames=16, context_len=77)
    for arch, expected in ((space.smallest, 640e6), (space.largest, 1.6e9)):
        with torch.device("meta"):
            model = space.build(arch)
        params = sum(parameter.numel() for parameter in model.parameters())
        assert params == space.cost(arch, "params", shape)
        assert params == pytest.approx(expected, rel=0.02)
    assert all(len(options) > 1 for options in space.config.widths)


@pytest.mark.parametrize("scale", ["cpu", "gpu", "paper"])
def test_every_scale_is_worth_searching(scale):
    """The smallest costs at most 40 percent of the largest, however it is counted."""
    space = of_recipe(scale, 64)
    ends = np.stack([space.encode(space.smallest), space.encode(space.largest)])
    costs = space.costs(ends, VideoShape.square(64, frames=8, context_len=16))
    for metric in ("params", "macs", "activation_bytes"):
        assert costs[metric][0] <= 0.4 * costs[metric][1], metric


def test_the_costs_of_thousands_are_those_of_each():
    space = of_recipe("gpu", 64)
    shape = VideoShape.square(32, frames=8, context_len=16)
    genomes = space.random_genomes(np.random.default_rng(0), 1000)
    costs = space.costs(genomes, shape)
    for i in range(0, 1000, 97):
        arch = space.decode(genomes[i])
        for metric in ("params", "macs", "activation_bytes"):
            assert space.cost(arch, metric, shape) == costs[metric][i]


@pytest.mark.parametrize(
    ("side", "options", "message"),
    [
        (30, {}, "resolution 30 cannot be halved once after patches of 2; use a multiple of 4"),
        (
            10,
            {"patch_size": 1, "widths": ((8,), (8,), (8,))},
            "halved 2 times; use a multiple of 4",
        ),
    ],
)
def test_resolutions_that_cannot_be_halved_are_errors(side, options, message):
    space = unet_space(**options)
    with pytest.raises(ValueError, match=message):
        space.check_shape(VideoShape.square(side, frames=2, context_len=1))
    with pytest.raises(ValueError, match=message):
        space.cost(space.smallest, "macs", VideoShape.square(side, frames=2, context_len=1))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"widths": ((16, 8), (16,))}, r"widths\[0\]: options \[16, 8\] are not ascending"),
        ({"widths": ((8,), (20,))}, "width 20 of level 1 is not a multiple of head_dim 8"),
        ({"widths": ((10,), (16,))}, "width 10 of level 0 gives 10 channels at ratio 1"),
        ({"hidden_ratios": (0.25, 1.0)}, "width 8 of level 0 gives 2 channels at ratio 0.25"),
        ({"attention_levels": (2,)}, "attention level 2 is not one of the 2 levels, 0 to 1"),
        ({"conditioning_width": 12}, "conditioning_width 12 is not a multiple of 8"),
    ],
)
def test_options_that_do_not_fit_are_errors(options, message):
    with pytest.raises(ValueError, match=message):
        unet_space(**options)


def test_it_is_saved_and_loaded_the_way_diffusers_does(tmp_path):
    space = unet_space()
    model = unet(space, space.sample(np.random.default_rng(3))).eval()
    model.save_pretrained(tmp_path)
    again = VideoUNet.from_pretrained(tmp_path)
    inputs = noisy_clips(space, SHAPE)
    with torch.no_grad():
        found = space.denoise(again, inputs)
        # A mapped file need not be aligned, and kernels round differently then.
        assert torch.allclose(found, space.denoise(model, inputs), atol=1e-6)
    assert dict(again.config)["blocks"] == dict(model.config)["blocks"]


def test_gradient_checkpointing_keeps_less():
    space = unet_space()
    kept = []
    for checkpointing in (False, True):
        model, sizes = unet(space), {}
        if checkpointing:
            model.enable_gradient_checkpointing()

        def pack(tensor, sizes=sizes):
            sizes[tensor.untyped_storage().data_ptr()] = tensor.nbytes
            return tensor

        with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
            space.denoise(model, noisy_clips(space, SHAPE))
        kept.append(sum(sizes.values()))
    assert kept[1] < kept[0] / 2


def test_every_weight_has_a_gradient_from_the_first_step():
    space = unet_space(blocks_per_level=2)
    model = unet(space)
    inputs = noisy_clips(space, SHAPE)
    step(space, model, replace(inputs, context_mask=torch.ones_like(inputs.context_mask)))
    found = gradients(model)
    assert set(found) == {name for name, _ in model.named_parameters()}
    assert all(grad.abs().max() > 0 for grad in found.values())


@pytest.mark.parametrize("which", ["smallest", "largest"])
def test_what_it_is_told_matters(which):
    """Time, frame rate, resolution, words and other frames, in every subnet."""
    space = unet_space()
    model = unet(space, getattr(space, which))
    inputs = noisy_clips(space, SHAPE)

    def first_frame(**changed):
        with torch.no_grad():
            return space.denoise(model, replace(inputs, **changed))[0, :, 0]

    other_last_frame = inputs.sample.clone()
    other_last_frame[:, :, -1] += 1
    same = first_frame()
    assert torch.equal(first_frame(), same)
    assert not torch.allclose(first_frame(timestep=inputs.timestep + 50), same, atol=1e-5)
    assert not torch.allclose(first_frame(fps=inputs.fps * 2), same, atol=1e-5)
    assert not torch.allclose(first_frame(context=-inputs.context), same, atol=1e-5)
    assert not torch.equal(first_frame(sample=other_last_frame), same)


def test_words_that_are_masked_do_not_matter():
    space = unet_space()
    model, inputs = unet(space), noisy_clips(space, SHAPE)
    changed = inputs.context.clone()
    masked = ~inputs.context_mask
    assert masked.any()
    changed[masked] += 100
    with torch.no_grad():
        expected = space.denoise(model, inputs)
        assert torch.equal(space.denoise(model, replace(inputs, context=changed)), expected)


def test_clips_of_a_batch_do_not_meet():
    space = unet_space()
    model, inputs = unet(space), noisy_clips(space, SHAPE)
    alone = type(inputs)(*(getattr(inputs, name)[1:] for name in inputs.__slots__))
    with torch.no_grad():
        both = space.denoise(model, inputs)
        assert torch.allclose(space.denoise(model, alone)[0], both[1], atol=1e-5)


def test_it_learns():
    """Thirty steps on one batch: from as bad as a guess to most of the way."""
    space = unet_space(widths=((16,), (32,)))
    model, inputs = unet(space), noisy_clips(space, SHAPE)
    target = torch.roll(inputs.sample, 1, dims=2)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
    losses = []
    for _ in range(30):
        value = (space.denoise(model, inputs) - target).square().mean()
        optimizer.zero_grad()
        value.backward()
        optimizer.step()
        losses.append(value.item())
    assert losses[0] > 0.8
    assert losses[-1] < 0.4
