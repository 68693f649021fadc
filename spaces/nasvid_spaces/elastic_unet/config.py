"""The config of the elastic UNet's space, and the blocks that follow from it."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Annotated, Literal

from pydantic import Field, model_validator

from nasvid.plugins.config import Config
from nasvid_spaces.elastic_unet.layers import ATTENTIONS, CONVOLUTIONS

Layer = Literal[
    "spatial_conv", "temporal_conv", "self_attention", "cross_attention", "temporal_attention"
]


Channels = Annotated[int, Field(ge=1, le=65536)]


@dataclass(frozen=True, slots=True)
class Position:
    """One block of the UNet: its module's name and level, and the layers it may have."""

    name: str
    level: int
    layers: tuple[str, ...]
    fixed: frozenset[str]
    """The layers that are never off."""

    @property
    def decoder(self) -> bool:
        """Whether the block takes a skip."""
        return self.name.startswith("up")


class ElasticUNetConfig(Config):
    """Options of elastic_unet."""

    widths: tuple[Annotated[tuple[Channels, ...], Field(max_length=64)], ...] = Field(
        default=((96, 128, 160), (256, 320, 384), (768, 832, 896, 960, 1024)),
        min_length=1,
        max_length=8,
    )
    """Channels that each level may have, from the highest resolution to the lowest."""
    hidden_ratios: tuple[Annotated[float, Field(gt=0, le=8)], ...] = Field(
        default=(0.5, 1.0), min_length=1, max_length=64
    )
    """Channels between a block's two spatial convolutions, relative to the level's width."""
    blocks_per_level: int = Field(default=2, ge=1, le=64)
    """Number of blocks per level, in the encoder and again in the decoder."""
    attention_levels: tuple[Annotated[int, Field(ge=0, le=7)], ...] = (1, 2)
    """Levels whose blocks have attention; the middle always has."""
    switchable: tuple[Layer, ...] = CONVOLUTIONS + ATTENTIONS
    """Kinds of layers that can be switched off."""
    conditioning_width: Channels = 512
    """Channels of the embedding of time, resolution and frame rate, and of the text."""
    head_dim: Channels = 64
    """Channels of an attention head."""
    group_size: Channels = 16
    """Channels per group of a norm; constant, so that its statistics do not depend on the width."""
    patch_size: int = Field(default=1, ge=1, le=256)
    """Pixels per position of the highest level, along height and width."""

    @model_validator(mode="after")
    def _fits(self) -> ElasticUNetConfig:
        widths = {f"widths[{level}]": options for level, options in enumerate(self.widths)}
        for key, options in (widths | {"hidden_ratios": self.hidden_ratios}).items():
            if not options:
                raise ValueError(f"{key} is empty; write at least one option")
            if list(options) != sorted(set(options)):
                raise ValueError(f"{key}: options {list(options)} are not ascending")
        for key in ("attention_levels", "switchable"):
            values = getattr(self, key)
            if twice := [each for each in values if values.count(each) > 1]:
                raise ValueError(f"{key} has {twice[0]} twice; remove one")
        for level, options in enumerate(self.widths):
            for width in options:
                self._check_width(level, width)
        for level in self.attention_levels:
            if level >= len(self.widths):
                raise ValueError(
                    f"attention level {level} is not one of the {len(self.widths)} levels, "
                    f"0 to {len(self.widths) - 1}"
                )
        if self.conditioning_width % 8:
            raise ValueError(f"conditioning_width {self.conditioning_width} is not a multiple of 8")
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

    @property
    def positions(self) -> tuple[Position, ...]:
        """The blocks, in the order they run in."""
        return tuple(_positions(self))


def _positions(config: ElasticUNetConfig) -> Iterator[Position]:
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
