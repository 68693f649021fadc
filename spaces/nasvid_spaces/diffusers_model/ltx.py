"""LTXVideoTransformer3DModel: the video transformer of LTX-Video, of any width and depth."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from einops import rearrange
from torch import nn

from nasvid.shapes import DenoiserInput
from nasvid.slices import Segments
from nasvid.units import Units
from nasvid_spaces.diffusers_model import units
from nasvid_spaces.diffusers_model.space import DiffusersModelSpace, Dimension, Settings

FRAMES, PIXELS = 8, 32
"""Frames and pixels for one position, which rotary positions count in seconds and pixels: those of
LTX-Video's own VAE."""

READ = (
    "time_embed.linear",
    ".attn1.to_q",
    ".attn1.to_k",
    ".attn1.to_v",
    ".attn2.to_q",
    ".ff.net.0.proj",
    "proj_out",
)
WRITTEN = (
    "proj_in",
    "time_embed.emb.timestep_embedder.linear_2",
    "time_embed.linear",
    ".to_out.0",
    ".ff.net.2",
)
"""Layers whose inputs, or whose outputs, are the residual stream's channels."""
TEXT_READ = (".attn2.to_k", ".attn2.to_v")
TEXT_WRITTEN = ("caption_projection.linear_2",)
"""The same of the channels of the embedded text."""


class LTXSpace(DiffusersModelSpace):
    """diffusers' `LTXVideoTransformer3DModel`.

    Its rotary positions run over the whole width, so a narrower subnet rotates its channels by
    other frequencies than a wider one. It is still a stock model, but its heads correspond only
    roughly to those of the wider one.
    """

    model = "LTXVideoTransformer3DModel"
    searchable = ("num_attention_heads", "num_layers")
    blocks = {"num_layers": ("transformer_blocks",)}  # noqa: RUF012 (constant)
    refused = {  # noqa: RUF012 (constant)
        "attention_head_dim": "a shorter head is not a slice of a longer one; choose "
        "num_attention_heads",
        "cross_attention_dim": "it is the width, num_attention_heads x attention_head_dim",
    }

    @classmethod
    def narrowed(cls, settings: Settings) -> Sequence[str]:
        """Return nothing: models of different widths rotate channels by different frequencies."""
        del settings
        return []

    def derived(self, settings: Settings) -> Settings:
        """Return the channels of video and text, and the width of the keys' and values' input."""
        channels = self.domain.channels
        return {
            "in_channels": channels,
            "out_channels": channels,
            "caption_channels": self.domain.context_dim,
            "cross_attention_dim": settings["num_attention_heads"] * settings["attention_head_dim"],
            "patch_size": 1,  # patching is left to the pipeline
            "patch_size_t": 1,
        }

    def denoise(self, model: nn.Module, x: DenoiserInput) -> torch.Tensor:
        """Run a model on the video as one sequence of tokens, `b (t h w) c`."""
        frames, height, width = x.sample.shape[2:]
        seconds = rearrange(FRAMES / x.fps, "b -> b 1 1 1 1")
        tokens = model(
            hidden_states=rearrange(x.sample, "b c t h w -> b (t h w) c"),
            encoder_hidden_states=x.context,
            timestep=x.timestep,
            encoder_attention_mask=x.context_mask,
            num_frames=frames,
            height=height,
            width=width,
            rope_interpolation_scale=(seconds, PIXELS, PIXELS),
            return_dict=False,
        )[0]
        return rearrange(tokens, "b (t h w) c -> b c t h w", t=frames, h=height)

    def kept(self, at: Dimension) -> Segments | None:
        """Return prefixes of the six modulations that a block takes."""
        if at.tensor.startswith("time_embed.linear.") and at.dim == 0:
            return at.equal_parts(6)
        return None

    def interchangeable(self) -> list[Units]:
        """Return channels, heads that attend to text, and hidden units.

        The other heads are not alike: their rotary positions have other frequencies.
        """
        shapes, settings = self.full_shapes, self.settings(self.largest)
        width = settings["num_attention_heads"] * settings["attention_head_dim"]
        scaled = ("scale_shift_table", ".norm1.weight", ".norm2.weight")
        return [
            units.channels(shapes, width, written=WRITTEN, read=READ, scaled=scaled),
            units.channels(
                shapes, width, written=TEXT_WRITTEN, read=TEXT_READ, name="text channels"
            ),
            *units.heads(shapes, settings["attention_head_dim"], besides=".attn1"),
            *units.feed_forward(shapes),
            *units.embedders(shapes),
        ]
