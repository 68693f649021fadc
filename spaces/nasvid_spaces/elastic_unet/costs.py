"""Analytic costs of elastic UNets: formulas for each layer, tables for thousands of architectures.

A cost in this file is an int64 array `(params, macs, floats)`: parameters, multiply-accumulates
of one forward pass, numbers that autograd keeps for the backward pass; for one clip. An operation
keeps its input unless stated otherwise.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np

from nasvid.architecture import Choice
from nasvid.costs import Costs
from nasvid.shapes import Domain, VideoShape
from nasvid_spaces.elastic_unet.config import ElasticUNetConfig, Position
from nasvid_spaces.elastic_unet.layers import PLACES

Term = tuple[tuple[str, ...], Callable[..., np.ndarray]]
"""A term of an architecture's cost: the choices it depends on, and its cost for their options."""


def cost(params: int = 0, macs: int = 0, floats: int = 0) -> np.ndarray:
    """Return a cost."""
    return np.array([params, macs, floats], dtype=np.int64)


def linear(inputs: int, outputs: int, rows: int) -> np.ndarray:
    """Return the cost of a linear map of `rows` vectors."""
    return cost(inputs * outputs + outputs, inputs * outputs * rows, inputs * rows)


def shared_linear(inputs: int, outputs: int, rows: int) -> np.ndarray:
    """Return the cost of a linear map whose input is shared by many maps, and counted elsewhere."""
    return linear(inputs, outputs, rows) - cost(floats=inputs * rows)


@dataclass(frozen=True, slots=True)
class Site:
    """Where a layer runs: one level of the UNet, for one clip.

    frames: of the clip. area: positions of one frame. tokens: of the text and the null token.
    """

    config: ElasticUNetConfig
    frames: int
    area: int
    tokens: int

    @property
    def positions(self) -> int:
        """Positions of all frames."""
        return self.frames * self.area

    def activation(self, width: int) -> np.ndarray:
        """Return the cost of an activation."""
        return cost(floats=width * self.positions)

    def conv(self, inputs: int, outputs: int, taps: int, stride: int = 1) -> np.ndarray:
        """Return the cost of a convolution with `taps` positions in its kernel."""
        weights = inputs * outputs * taps
        macs = weights * self.positions // stride**2
        return cost(weights + outputs, macs, inputs * self.positions)

    def norm(self, width: int) -> np.ndarray:
        """Return the cost of a group norm, which keeps each group's mean and deviation, too."""
        statistics = 2 * self.frames * (width // self.config.group_size)
        return cost(2 * width, 0, width * self.positions + statistics)

    def modulation(self, width: int) -> np.ndarray:
        """Return the cost of a modulation, which keeps each frame's scales, too."""
        scales = cost(floats=width * self.frames)
        embedding = self.config.conditioning_width
        return shared_linear(embedding, 2 * width, 1) + scales + self.activation(width)

    def attention(self, width: int, keys: int, all_keys: int) -> np.ndarray:
        """Return the cost of attention alone, which keeps queries, keys, values and their sums.

        keys: that one query attends to. all_keys: those of all queries together.
        """
        sums = self.positions * (width // self.config.head_dim)
        kept = width * (self.positions + 2 * all_keys) + sums
        return cost(macs=2 * width * keys * self.positions, floats=kept)

    def spatial_conv(self, inputs: int, hidden: int, width: int) -> np.ndarray:
        """Return the cost of `SpatialConv`."""
        first = self.norm(inputs) + self.activation(inputs) + self.conv(inputs, hidden, 9)
        second = self.norm(hidden) + self.modulation(hidden) + self.activation(hidden)
        return first + second + self.conv(hidden, width, 9)

    def temporal_conv(self, width: int) -> np.ndarray:
        """Return the cost of `TemporalConv`."""
        return self.norm(width) + self.activation(width) + self.conv(width, width, 3)

    def self_attention(self, width: int, keys: int) -> np.ndarray:
        """Return the cost of `SelfAttention` or `TemporalAttention`."""
        projections = linear(width, 3 * width, self.positions)
        projections += linear(width, width, self.positions)
        return self.norm(width) + projections + self.attention(width, keys, self.positions)

    def cross_attention(self, width: int) -> np.ndarray:
        """Return the cost of `CrossAttention`, which keeps the text's mask, too."""
        projections = 2 * linear(width, width, self.positions)
        projections += shared_linear(self.config.conditioning_width, 2 * width, self.tokens)
        attention = self.attention(width, self.tokens, self.tokens) + cost(floats=self.tokens)
        return self.norm(width) + projections + attention

    def layer(self, name: str, width: int, hidden_ratio: float, *, decoder: bool) -> np.ndarray:
        """Return the cost of one of a block's layers."""
        if name == "spatial_conv":
            hidden = round(width * hidden_ratio)
            if not decoder:
                return self.spatial_conv(width, hidden, width)
            # The shortcut already keeps the input.
            return self.spatial_conv(2 * width, hidden, width) - self.activation(2 * width)
        if name == "temporal_conv":
            return self.temporal_conv(width)
        if name == "cross_attention":
            return self.cross_attention(width)
        return self.self_attention(width, self.area if name == "self_attention" else self.frames)


def conditioning(config: ElasticUNetConfig, domain: Domain, tokens: int) -> np.ndarray:
    """Return the cost of `Conditioning`, with the embedding and the text that layers share."""
    width = config.conditioning_width
    features = width // 4
    maps = linear(features, width, 1) + 2 * linear(width, width, 1)
    maps += linear(3 * features, width, 1) + linear(domain.context_dim, width, tokens - 1)
    activations, shared, mean = 2 * width, width * (1 + tokens), tokens
    return maps + cost(params=width, floats=activations + shared + mean)


def terms(config: ElasticUNetConfig, domain: Domain, shape: VideoShape) -> Iterator[Term]:
    """Yield the terms of an architecture's cost."""
    tokens = shape.context_len + 1
    sides = [config.patch_size * 2**n for n in range(len(config.widths))]
    areas = [(shape.height // side) * (shape.width // side) for side in sides]
    sites = [Site(config, shape.frames, area, tokens) for area in areas]
    widths = [f"level.{n}.width" for n in range(len(sites))]
    patch = domain.channels * config.patch_size**2
    yield (), partial(conditioning, config, domain, tokens)
    yield (widths[0],), partial(_ends, sites[0], patch)
    for n, (high, low) in enumerate(itertools.pairwise(sites)):
        yield (widths[n], widths[n + 1]), partial(_transitions, high, low)
    for at in config.positions:
        yield from _block(at, sites[at.level], widths[at.level])


def _ends(site: Site, patch: int, width: int) -> np.ndarray:
    last = site.norm(width) + site.modulation(width) + site.conv(width, patch, 9)
    return site.conv(patch + PLACES, width, 9) + last


def _transitions(high: Site, low: Site, width: int, below: int) -> np.ndarray:
    return high.conv(width, below, 9, stride=2) + low.conv(below, width, 9)


def _block(at: Position, site: Site, width: str) -> Iterator[Term]:
    if at.decoder:
        yield (width,), lambda width: site.conv(2 * width, width, 1)
    for name in at.layers:
        layer = partial(site.layer, name, decoder=at.decoder)
        names = (width, f"{at.name}.hidden") if name == "spatial_conv" else (width,)
        if name in at.fixed:
            yield names, partial(_gated, layer, True)
        else:
            yield (f"{at.name}.{name}", *names), partial(_gated, layer)


def _gated(
    layer: Callable[..., np.ndarray], on: bool, width: int, hidden_ratio: float = 0.0
) -> np.ndarray:
    return layer(width, hidden_ratio) if on else cost()


ROWS = 256
"""Genomes looked up at a time: what lies between then stays in the processor's cache."""


class CostTable:
    """Costs of genomes as sums of table entries: exact, and fast for one and for thousands."""

    def __init__(self, choices: Sequence[Choice], terms: Iterable[Term]) -> None:
        column = {choice.name: i for i, choice in enumerate(choices)}
        strides, entries, starts = [], [], []
        for names, function in terms:
            options = [choices[column[name]].options for name in names]
            stride = np.zeros(len(choices))
            for i, name in enumerate(names):
                stride[column[name]] = np.prod([len(rest) for rest in options[i + 1 :]])
            strides.append(stride)
            starts.append(len(entries))
            entries += [function(*combination) for combination in itertools.product(*options)]
        # Floating point, because matrix products are fast there; indices are small, hence exact.
        self._strides = np.stack(strides, axis=1)
        self._starts = np.array(starts)
        self._entries = np.stack(entries, axis=1)

    def __call__(self, genomes: np.ndarray) -> Costs:
        """Return the costs of canonical genomes `(n, choices)`."""
        sums = np.empty((len(self._entries), len(genomes)), dtype=self._entries.dtype)
        for first in range(0, len(genomes), ROWS):
            some = slice(first, first + ROWS)
            entries = (genomes[some] @ self._strides).astype(np.int64) + self._starts
            for metric, sums_of_metric in zip(self._entries, sums, strict=True):
                metric[entries].sum(axis=1, out=sums_of_metric[some])
        params, macs, floats = sums
        return Costs(params=params, macs=macs, activation_bytes=4 * floats)
