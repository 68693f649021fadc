"""UNet3DConditionModel: the UNet of diffusers' text-to-video pipeline, with levels of any width."""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import pairwise, product

import torch
from torch import nn

from nasvid.architecture import Architecture
from nasvid.layout import Part
from nasvid.shapes import DenoiserInput
from nasvid.slices import Segments
from nasvid.units import Units
from nasvid_spaces.diffusers_model import units
from nasvid_spaces.diffusers_model.choices import targets
from nasvid_spaces.diffusers_model.frequencies import nearest_frequencies
from nasvid_spaces.diffusers_model.space import DiffusersModelSpace, Dimension, Settings


class UNet3DSpace(DiffusersModelSpace):
    """diffusers' `UNet3DConditionModel`; choices are entries of `block_out_channels`.

    The model takes no text mask: padding is set to zero. Its norms have a constant number of
    groups, so a narrower subnet's groups are smaller; it is still a stock model, but its statistics
    correspond only roughly to a wider one's.
    """

    model = "UNet3DConditionModel"
    searchable = ("block_out_channels",)
    refused = {  # noqa: RUF012 (constant)
        "layers_per_block": "a decoder's last block takes a different skip from the one before, so "
        "with one block fewer, the same name would mean a different block",
        "attention_head_dim": "it only divides the same channels into different heads",
        "norm_num_groups": "it only divides the same channels into different groups",
    }

    @classmethod
    def multiple(cls, setting: str, settings: Settings) -> int:
        """Return what divides into whole heads and groups."""
        del setting
        return math.lcm(settings["attention_head_dim"], settings["norm_num_groups"])

    def derived(self, settings: Settings) -> Settings:
        """Return the channels of video and text."""
        del settings
        channels = self.domain.channels
        return {
            "in_channels": channels,
            "out_channels": channels,
            "cross_attention_dim": self.domain.context_dim,
        }

    def denoise(self, model: nn.Module, x: DenoiserInput) -> torch.Tensor:
        """Run a model, which is not conditioned on the frame rate."""
        context = x.context * x.context_mask[..., None]
        return model(x.sample, x.timestep, context, return_dict=False)[0]

    def feature_points(self, arch: Architecture) -> dict[str, str]:
        """Return the levels of the encoder and the decoder, and the middle between them."""
        levels = range(self._levels(self.settings(arch)))
        names = [f"{side}_blocks.{level}" for side in ("down", "up") for level in levels]
        return {name: name for name in (*names, "mid_block")}

    def part(self, choice: str) -> Part:
        """Return the level of the U whose width is the choice, the highest of several."""
        levels = [str(level) for _, level in targets(choice)]
        name = f"{'levels' if levels[1:] else 'level'} {', '.join(levels)}"
        return Part(name, {choice: "width"}, "across", int(levels[0]))

    def check(self, settings: Settings) -> None:
        """Check that widths divide into heads and groups, and that all subnets have shortcuts."""
        levels = [self._widths(settings, level) for level in range(self._levels(settings))]
        for level, widths in enumerate(levels):
            for key in ("attention_head_dim", "norm_num_groups"):
                for width in widths:
                    if width % settings[key]:
                        raise ValueError(
                            f"block_out_channels.{level}: {width} is not a multiple of {key}, "
                            f"{settings[key]}"
                        )
        for level, (above, below) in enumerate(pairwise(levels)):
            tied = self._driver(level) == self._driver(level + 1) is not None
            pairs = zip(above, below, strict=True) if tied else product(above, below)
            equal = [a == b for a, b in pairs]
            if any(equal) and not all(equal):
                same = min(set(above) & set(below))
                raise ValueError(
                    f"block_out_channels.{level} and .{level + 1} may both be {same} or differ; "
                    "UNet3DConditionModel has a shortcut between levels only where they differ, "
                    "so both kinds cannot share weights; give the two levels no option in common, "
                    f"or one choice: block_out_channels.{level}+{level + 1}"
                )

    def kept(self, at: Dimension) -> Segments | None:
        """Return prefixes of the decoder's `[h, skip]`, of values and gates, and of frequencies."""
        if at.tensor.startswith("up_blocks.") and ".resnets." in at.tensor:
            leaf = at.tensor.split(".", 4)[4]
            joined = {
                "norm1.weight": 0,
                "norm1.bias": 0,
                "conv1.weight": 1,
                "conv_shortcut.weight": 1,
            }
            if joined.get(leaf) == at.dim:
                _, block, _, resnet, _ = at.tensor.split(".", 4)
                where = int(block), int(resnet)
                return Segments.prefixes(_joined(at.settings, *where), _joined(at.largest, *where))
        if ".ff.net.0.proj." in at.tensor and at.dim == 0:
            return at.equal_parts(2)
        if at.tensor == "time_embedding.linear_1.weight" and at.dim == 1:
            return nearest_frequencies(at.kept, at.size)
        return None

    def interchangeable(self) -> list[Units]:
        """Return heads and hidden units; channels belong to the groups of norms."""
        shapes = self.full_shapes
        head_dim = self.settings(self.largest)["attention_head_dim"]
        return [
            *units.heads(shapes, head_dim),
            *units.feed_forward(shapes),
            *units.embedders(shapes),
        ]

    def _levels(self, settings: Settings) -> int:
        return len(settings["block_out_channels"])

    def _widths(self, settings: Settings, level: int) -> Sequence[int]:
        driver = self._driver(level)
        return self.config.options[driver] if driver else (settings["block_out_channels"][level],)

    def _driver(self, level: int) -> str | None:
        """Return the choice that sets a level's width."""
        driven = ((name, targets(name)) for name in self.config.options)
        return next((name for name, of in driven if ("block_out_channels", level) in of), None)


def _joined(settings: Settings, block: int, resnet: int) -> tuple[int, int]:
    """Return the channels of `[h, skip]` that a block of the decoder takes."""
    widths = list(reversed(settings["block_out_channels"]))
    own, above = widths[block], widths[max(block - 1, 0)]
    last = resnet == settings["layers_per_block"]
    skip = widths[min(block + 1, len(widths) - 1)] if last else own
    return (above if resnet == 0 else own), skip
