"""ElasticUNetSpace: video UNets of any width and any selection of layers."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

from pydantic import Field, PositiveInt, model_validator

from nasvid import config as base
from nasvid.architecture import Architecture, Choice
from nasvid.slices import Segments, SliceRules
from nasvid.space import SearchSpace
from nasvid.video import Domain, VideoShape
from nasvid_spaces.elastic_unet.model import ATTENTIONS, CONVOLUTIONS, BlockConfig, VideoUNet

Layer = Literal[
    "spatial_conv", "temporal_conv", "self_attention", "cross_attention", "temporal_attention"
]


@dataclass(frozen=True, slots=True)
class Position:
    """One block of the UNet: its module's name and level, and the layers it may have."""

    name: str
    level: int
    layers: tuple[str, ...]
    fixed: frozenset[str]
    """Those of them that are never off."""

    @property
    def decoder(self) -> bool:
        """Whether the block takes a skip."""
        return self.name.startswith("up")


class ElasticUNetSpace(SearchSpace):
    """Video UNets whose levels vary in width and whose blocks vary in what they are made of.

    Dynamic channels: `level.N.width`, and per block `hidden`, the channels between its two
    spatial convolutions as a fraction of the width. Dynamic blocks: each layer of each block
    (spatial and temporal convolution; self, cross and temporal attention) is on or off by itself.

    Never off are the first spatial convolution of each level in encoder and decoder, and the
    middle's cross and temporal attention: every level computes something, and no subnet is blind
    to the text or to time.
    """

    class Config(base.Config):
        """Options of elastic_unet."""

        widths: tuple[tuple[PositiveInt, ...], ...] = Field(
            default=((96, 128, 160), (192, 256, 320), (384, 512, 640)), min_length=1
        )
        """Channels each level may have, from the highest resolution to the lowest."""
        hidden_ratios: tuple[float, ...] = Field(default=(0.5, 1.0), min_length=1)
        """Channels between a block's two spatial convolutions, relative to the level's width."""
        blocks_per_level: PositiveInt = 2
        """Blocks of each level in the encoder, and as many in the decoder."""
        attention_levels: tuple[int, ...] = (1, 2)
        """Levels whose blocks have attention; the middle always has."""
        switchable: tuple[Layer, ...] = CONVOLUTIONS + ATTENTIONS
        """Kinds of layers that can be off."""
        conditioning_width: PositiveInt = 512
        """Channels of the embedding of time, resolution and frame rate, and of the text."""
        head_dim: PositiveInt = 32
        """Channels of an attention head."""
        group_size: PositiveInt = 16
        """Channels of a norm's group; constant, so that widths do not change its statistics."""
        patch_size: PositiveInt = 1
        """Pixels of a side that are one position of the highest level."""

        @model_validator(mode="after")
        def _fits(self) -> ElasticUNetSpace.Config:
            for options in (*self.widths, self.hidden_ratios):
                if list(options) != sorted(set(options)) or not options:
                    raise ValueError(f"options {list(options)} do not rise from each to the next")
            for level, options in enumerate(self.widths):
                for width in options:
                    self._check_width(level, width)
            for level in self.attention_levels:
                if not 0 <= level < len(self.widths):
                    raise ValueError(
                        f"attention level {level} is not one of the {len(self.widths)} levels, "
                        f"0 to {len(self.widths) - 1}"
                    )
            if self.conditioning_width % 8:
                raise ValueError(
                    f"conditioning_width {self.conditioning_width} is not a multiple of 8"
                )
            return self

        def _check_width(self, level: int, width: int) -> None:
            attends = level in self.attention_levels or level == len(self.widths) - 1
            if attends and width % self.head_dim:
                raise ValueError(
                    f"width {width} of level {level} is not a multiple of head_dim {self.head_dim}"
                )
            for ratio in (1.0, *self.hidden_ratios):
                channels = width * ratio
                if channels % self.group_size or channels <= 0:
                    raise ValueError(
                        f"width {width} of level {level} gives {channels:g} channels at ratio "
                        f"{ratio:g}: not a multiple of group_size {self.group_size}"
                    )

    config: Config

    def __init__(self, config: Config, domain: Domain) -> None:
        self.positions = tuple(_positions(config))
        super().__init__(config, domain)

    def make_choices(self) -> list[Choice]:
        """Return the widths of the levels, then what each block is made of."""
        choices = [
            Choice(f"level.{level}.width", options)
            for level, options in enumerate(self.config.widths)
        ]
        for at in self.positions:
            on_off = [layer for layer in at.layers if layer not in at.fixed]
            choices += [Choice(f"{at.name}.{layer}", (False, True)) for layer in on_off]
            gate = f"{at.name}.spatial_conv" if "spatial_conv" in on_off else None
            choices.append(Choice(f"{at.name}.hidden", self.config.hidden_ratios, gate))
        return choices

    def build(self, arch: Architecture) -> VideoUNet:
        """Return the VideoUNet of an architecture."""
        widths = [int(arch[f"level.{level}.width"]) for level in range(len(self.config.widths))]
        blocks = {}
        for at in self.positions:
            layers = [x for x in at.layers if x in at.fixed or arch[f"{at.name}.{x}"]]
            hidden = round(widths[at.level] * float(arch[f"{at.name}.hidden"]))
            blocks[at.name] = BlockConfig(
                layers=layers, hidden=hidden if "spatial_conv" in layers else 0
            )
        return VideoUNet(
            channels=self.domain.channels,
            context_dim=self.domain.context_dim,
            widths=widths,
            blocks=blocks,
            conditioning_width=self.config.conditioning_width,
            head_dim=self.config.head_dim,
            group_size=self.config.group_size,
            patch_size=self.config.patch_size,
        )

    def slice_rules(self, arch: Architecture) -> SliceRules:
        """Return the slices of what sees a decoder's `[h, skip]`: a prefix of each half."""
        rules: dict[str, dict[int, Segments]] = {}
        for at in self.positions:
            if not at.decoder:
                continue
            width = int(arch[f"level.{at.level}.width"])
            full = self.config.widths[at.level][-1]
            halves = Segments((0, width), (full, full + width))
            rules[f"{at.name}.shortcut.weight"] = {1: halves}
            if "spatial_conv" in at.fixed or arch[f"{at.name}.spatial_conv"]:
                conv = f"{at.name}.spatial_conv"
                rules |= {f"{conv}.norm1.{leaf}": {0: halves} for leaf in ("weight", "bias")}
                rules[f"{conv}.conv1.weight"] = {1: halves}
        return rules

    def check_shape(self, shape: VideoShape) -> None:
        """Check that the video can be halved once between each two levels.

        Raises:
            ValueError: height or width is not a multiple of what that takes.
        """
        halvings = len(self.config.widths) - 1
        multiple = self.config.patch_size * 2**halvings
        for side in (shape.height, shape.width):
            if side % multiple:
                patches = f" after patches of {self.config.patch_size}"
                raise ValueError(
                    f"resolution {side} cannot be halved {halvings} times"
                    f"{patches if self.config.patch_size > 1 else ''}: "
                    f"use a multiple of {multiple}"
                )


def _positions(config: ElasticUNetSpace.Config) -> Iterator[Position]:
    """Yield the blocks in the order they run in."""
    lowest = len(config.widths) - 1
    always = frozenset(CONVOLUTIONS + ATTENTIONS) - frozenset(config.switchable)

    def level(side: str, n: int) -> Iterator[Position]:
        layers = CONVOLUTIONS + (ATTENTIONS if n in config.attention_levels else ())
        for i in range(config.blocks_per_level):
            first = always | {"spatial_conv"} if i == 0 else always
            yield Position(f"{side}.{n}.{i}", n, layers, first)

    for n in range(lowest + 1):
        yield from level("down", n)
    middle = always | {"cross_attention", "temporal_attention"}
    yield Position("middle", lowest, CONVOLUTIONS + ATTENTIONS, middle)
    for n in reversed(range(lowest + 1)):
        yield from level("up", n)
