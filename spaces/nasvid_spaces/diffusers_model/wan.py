"""WanTransformer3DModel: the video transformer of Wan, of any width, depth and feed-forward."""

from __future__ import annotations

import torch
from torch import nn

from nasvid.shapes import DenoiserInput, VideoShape
from nasvid.slices import Segments
from nasvid.units import Units
from nasvid_spaces.diffusers_model import units
from nasvid_spaces.diffusers_model.space import (
    DiffusersModelSpace,
    Dimension,
    Settings,
    check_patches,
)

READ = (
    "condition_embedder.time_proj",
    ".attn1.to_q",
    ".attn1.to_k",
    ".attn1.to_v",
    ".attn2.to_q",
    ".ffn.net.0.proj",
    "proj_out",
)
WRITTEN = (
    "patch_embedding",
    "condition_embedder.time_embedder.linear_2",
    "condition_embedder.time_proj",
    ".to_out.0",
    ".ffn.net.2",
    ".norm2",
)
"""Layers whose inputs, or whose outputs, are the residual stream's channels."""
TEXT_READ = (".attn2.to_k", ".attn2.to_v")
TEXT_WRITTEN = ("condition_embedder.text_embedder.linear_2",)
"""The same of the channels of the embedded text."""


class WanSpace(DiffusersModelSpace):
    """diffusers' `WanTransformer3DModel`, for text to video.

    A narrower subnet has fewer heads; a shallower one lacks some blocks. The model takes no
    text mask: padding is set to zero, as in its pipeline.
    """

    model = "WanTransformer3DModel"
    searchable = ("num_attention_heads", "ffn_dim", "num_layers")
    blocks = {"num_layers": ("blocks",)}  # noqa: RUF012 (constant)
    refused = {  # noqa: RUF012 (constant)
        "attention_head_dim": "rotary positions depend on a channel's index in its head, so a "
        "shorter head is not a slice of a longer one; choose num_attention_heads",
        "freq_dim": "a narrower time embedding has different frequencies",
    }

    def derived(self, settings: Settings) -> Settings:
        """Return the channels of video and text."""
        del settings
        channels = self.domain.channels
        return {
            "in_channels": channels,
            "out_channels": channels,
            "text_dim": self.domain.context_dim,
        }

    def denoise(self, model: nn.Module, x: DenoiserInput) -> torch.Tensor:
        """Run a model, which is not conditioned on the frame rate."""
        context = x.context * x.context_mask[..., None]
        return model(x.sample, x.timestep, context, return_dict=False)[0]

    def check_shape(self, shape: VideoShape) -> None:
        """Check that the video divides into patches, and that each has a position."""
        settings = self.settings(self.largest)
        patch, most = settings["patch_size"], settings["rope_max_seq_len"]
        check_patches(shape, *patch)
        for name, size in zip(("frames", "height", "width"), patch, strict=True):
            if getattr(shape, name) > most * size:
                raise ValueError(
                    f"{name} {getattr(shape, name)} is more than config.rope_max_seq_len has "
                    f"positions for; use {most * size} at most"
                )

    def kept(self, at: Dimension) -> Segments | None:
        """Return prefixes of the six modulations that a block takes."""
        if at.tensor.startswith("condition_embedder.time_proj.") and at.dim == 0:
            return at.equal_parts(6)
        return None

    def interchangeable(self) -> list[Units]:
        """Return channels, heads and hidden units."""
        shapes, settings = self.full_shapes, self.settings(self.largest)
        width = settings["num_attention_heads"] * settings["attention_head_dim"]
        return [
            units.channels(
                shapes, width, written=WRITTEN, read=READ, scaled=("scale_shift_table",)
            ),
            units.channels(
                shapes, width, written=TEXT_WRITTEN, read=TEXT_READ, name="text channels"
            ),
            *units.heads(shapes, settings["attention_head_dim"]),
            *units.feed_forward(shapes),
            *units.embedders(shapes),
        ]
