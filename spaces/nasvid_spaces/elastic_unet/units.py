"""The channels and heads of an elastic UNet that can be permuted, and where their weights lie."""

from __future__ import annotations

import math
from collections.abc import Iterator

from nasvid.units import Place, Units
from nasvid_spaces.elastic_unet.config import ElasticUNetConfig, Position
from nasvid_spaces.elastic_unet.layers import ATTENTIONS


def interchangeable(config: ElasticUNetConfig) -> Iterator[Units]:
    """Yield, for the largest architecture, each level's channels, then each layer's inner units."""
    for level, options in enumerate(config.widths):
        attends = any(
            at.level == level and "temporal_attention" in at.layers for at in config.positions
        )
        # A norm's group moves as one; every head has the same position code.
        size = math.lcm(config.group_size, config.head_dim) if attends else config.group_size
        stream = tuple(_stream(config, level, size))
        yield Units(f"level.{level}", options[-1] // size, stream)
    for at in config.positions:
        yield from _inside(config, at)


def _stream(config: ElasticUNetConfig, level: int, size: int) -> Iterator[Place]:
    """Yield where `size` channels of a level's residual stream lie."""
    width = config.widths[level][-1]
    if level == 0:
        yield from _produced("stem", size)
        yield from _normed("norm", size)
        yield from _modulated("modulation", size)
        yield Place("out.weight", 1, size)
    else:
        yield from _produced(f"downsample.{level - 1}", size)
        yield Place(f"upsample.{level - 1}.weight", 1, size)
    if level + 1 < len(config.widths):
        yield Place(f"downsample.{level}.weight", 1, size)
        yield from _produced(f"upsample.{level}", size)
    for at in config.positions:
        if at.level == level:
            yield from _block(at, width, size)


def _block(at: Position, width: int, size: int) -> Iterator[Place]:
    starts = (0, width) if at.decoder else (0,)  # of [h, skip], which are permuted alike
    if at.decoder:
        yield from _produced(f"{at.name}.shortcut", size)
    for start in starts:
        if at.decoder:
            yield Place(f"{at.name}.shortcut.weight", 1, size, start)
        yield from _normed(f"{at.name}.spatial_conv.norm1", size, start)
        yield Place(f"{at.name}.spatial_conv.conv1.weight", 1, size, start)
    yield from _produced(f"{at.name}.spatial_conv.conv2", size)
    yield from _normed(f"{at.name}.temporal_conv.norm", size)
    yield from _produced(f"{at.name}.temporal_conv.conv", size)
    yield Place(f"{at.name}.temporal_conv.conv.weight", 1, size)
    for attention in ATTENTIONS:
        if attention in at.layers:
            layer = f"{at.name}.{attention}"
            yield from _normed(f"{layer}.norm", size)
            projection = "q" if attention == "cross_attention" else "qkv"
            yield Place(f"{layer}.{projection}.weight", 1, size)
            yield from _produced(f"{layer}.out", size)


def _inside(config: ElasticUNetConfig, at: Position) -> Iterator[Units]:
    """Yield the channels between a block's spatial convolutions and the heads of attentions."""
    width, group, head = config.widths[at.level][-1], config.group_size, config.head_dim
    conv = f"{at.name}.spatial_conv"
    hidden = [
        *_produced(f"{conv}.conv1", group),
        *_normed(f"{conv}.norm2", group),
        *_modulated(f"{conv}.modulation", group),
        Place(f"{conv}.conv2.weight", 1, group),
    ]
    channels = round(width * config.hidden_ratios[-1])
    yield Units(f"{at.name}.hidden", channels // group, tuple(hidden))
    for attention in ATTENTIONS:
        if attention in at.layers:
            layer = f"{at.name}.{attention}"
            if attention == "cross_attention":
                parts = [*_produced(f"{layer}.q", head), *_produced(f"{layer}.kv", 2 * head)]
            else:
                parts = [*_produced(f"{layer}.qkv", 3 * head)]
            heads = (*parts, Place(f"{layer}.out.weight", 1, head))
            yield Units(f"{layer}.heads", width // head, heads)


def _produced(layer: str, size: int) -> tuple[Place, Place]:
    return Place(f"{layer}.weight", 0, size), Place(f"{layer}.bias", 0, size)


def _normed(norm: str, size: int, start: int = 0) -> tuple[Place, Place]:
    return Place(f"{norm}.weight", 0, size, start), Place(f"{norm}.bias", 0, size, start)


def _modulated(modulation: str, size: int) -> tuple[Place, Place]:
    return _produced(f"{modulation}.linear", 2 * size)  # a scale and a shift for each channel
