"""ElasticUNetSpace: video UNets of any width and any selection of layers."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from nasvid.architecture import Architecture, Choice
from nasvid.costs import Costs
from nasvid.layout import Layout, Part, Side
from nasvid.shapes import Domain, VideoShape
from nasvid.slices import Segments, SliceRules
from nasvid.space import SearchSpace
from nasvid.units import Units
from nasvid_spaces.elastic_unet.config import ElasticUNetConfig, Position
from nasvid_spaces.elastic_unet.costs import CostTable, terms
from nasvid_spaces.elastic_unet.units import interchangeable

if TYPE_CHECKING:
    from nasvid_spaces.elastic_unet.model import VideoUNet


class ElasticUNetSpace(SearchSpace[ElasticUNetConfig]):
    """Video UNets whose levels vary in width and whose blocks vary in their layers.

    Dynamic channels: `level.N.width`, and per block `hidden`, the channels between its two
    spatial convolutions as a fraction of the width. Dynamic blocks: each layer of each block
    (spatial and temporal convolution; self, cross and temporal attention) is on or off by itself.

    The first spatial convolution of each level in encoder and decoder, and the middle's cross and
    temporal attention are always on, so that every level computes something and every subnet sees
    the text and other frames.
    """

    model_module = "nasvid_spaces.elastic_unet.model"

    def __init__(self, config: ElasticUNetConfig, domain: Domain) -> None:
        self._tables: dict[VideoShape, CostTable] = {}
        super().__init__(config, domain)

    def make_choices(self) -> list[Choice]:
        """Return the widths of the levels, then the choices of each block."""
        choices = [
            Choice(f"level.{level}.width", options)
            for level, options in enumerate(self.config.widths)
        ]
        for at in self.config.positions:
            choices += self._choices_of(at).values()
        return choices

    def _choices_of(self, at: Position) -> dict[str, Choice]:
        """Return the choices of a block by their names within it."""
        on_off = [layer for layer in at.layers if layer not in at.fixed]
        choices = {layer: Choice(f"{at.name}.{layer}", (False, True)) for layer in on_off}
        gate = f"{at.name}.spatial_conv" if "spatial_conv" in on_off else None
        choices["hidden"] = Choice(f"{at.name}.hidden", self.config.hidden_ratios, gate)
        return choices

    def layout(self) -> Layout:
        """Return a U: widths across the levels, blocks down one side and up the other."""
        levels = [
            Part(f"level {n}", {f"level.{n}.width": "width"}, "across", n)
            for n in range(len(self.config.widths))
        ]
        return Layout((*levels, *map(self._part, self.config.positions)))

    def _part(self, at: Position) -> Part:
        labels = {c.name: label.replace("_", " ") for label, c in self._choices_of(at).items()}
        if at.name == "middle":
            return Part(at.name, labels, "middle")
        side: Side = "up" if at.decoder else "down"
        return Part(at.name, labels, side, at.level)

    def build(self, arch: Architecture) -> VideoUNet:
        """Return the VideoUNet of an architecture."""
        # Imported here, because diffusers takes seconds, which checking a recipe need not wait for.
        from nasvid_spaces.elastic_unet.model import BlockConfig, VideoUNet

        widths = [int(arch[f"level.{level}.width"]) for level in range(len(self.config.widths))]
        blocks = {}
        for at in self.config.positions:
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

    def feature_points(self, arch: Architecture) -> dict[str, str]:
        """Return each block, which has the same place in every architecture."""
        del arch
        return {at.name: at.name for at in self.config.positions}

    def slice_rules(self, arch: Architecture) -> SliceRules:
        """Return the slices of tensors that take a decoder's `[h, skip]`: a prefix of each half."""
        rules: dict[str, dict[int, Segments]] = {}
        for at in self.config.positions:
            if not at.decoder:
                continue
            width = int(arch[f"level.{at.level}.width"])
            full = self.config.widths[at.level][-1]
            halves = Segments.prefixes([width] * 2, [full] * 2)
            rules[f"{at.name}.shortcut.weight"] = {1: halves}
            if "spatial_conv" in at.fixed or arch[f"{at.name}.spatial_conv"]:
                conv = f"{at.name}.spatial_conv"
                rules |= {f"{conv}.norm1.{leaf}": {0: halves} for leaf in ("weight", "bias")}
                rules[f"{conv}.conv1.weight"] = {1: halves}
        return rules

    def interchangeable(self) -> list[Units]:
        """Return each level's channels, the channels inside blocks, and the heads."""
        return list(interchangeable(self.config))

    def costs(self, genomes: np.ndarray, shape: VideoShape) -> Costs:
        """Return the costs of n genomes for one clip of `shape`, from formulas."""
        if shape not in self._tables:
            self.check_shape(shape)
            self._tables[shape] = CostTable(self.choices, terms(self.config, self.domain, shape))
        return self._tables[shape](self.canonical(genomes))

    def check_shape(self, shape: VideoShape) -> None:
        """Check that the video can be halved between levels.

        Raises:
            ValueError: height or width is not the multiple that this needs.
        """
        halvings, patch = len(self.config.widths) - 1, self.config.patch_size
        multiple = patch * 2**halvings
        times = "once" if halvings == 1 else f"{halvings} times"
        patches = f" after patches of {patch}" if patch > 1 else ""
        for side in (shape.height, shape.width):
            if side % multiple:
                raise ValueError(
                    f"resolution {side} cannot be halved {times}{patches}; "
                    f"use a multiple of {multiple}"
                )
