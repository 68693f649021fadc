"""LatteTransformer3DModel: the video transformer of Latte, of any width and depth."""

from __future__ import annotations

from collections.abc import Sequence

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


class LatteSpace(DiffusersModelSpace):
    """diffusers' `LatteTransformer3DModel`.

    Its position tables depend on the width: a narrower subnet has its own. The model takes no text
    mask: padding is set to zero, as in its pipeline.
    """

    model = "LatteTransformer3DModel"
    searchable = ("num_attention_heads", "num_layers")
    blocks = {"num_layers": ("transformer_blocks", "temporal_transformer_blocks")}  # noqa: RUF012 (constant)
    refused = {  # noqa: RUF012 (constant)
        "attention_head_dim": "a shorter head is not a slice of a longer one; choose "
        "num_attention_heads",
        "video_length": "all architectures take clips of the same length",
    }

    @classmethod
    def narrowed(cls, settings: Settings) -> Sequence[str]:
        """Return nothing: its table of positions differs by width."""
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
        }

    def denoise(self, model: nn.Module, x: DenoiserInput) -> torch.Tensor:
        """Run a model, which is not conditioned on the frame rate."""
        context = x.context * x.context_mask[..., None]
        return model(
            x.sample, timestep=x.timestep, encoder_hidden_states=context, return_dict=False
        )[0]

    def check(self, settings: Settings) -> None:
        """Check the settings for which the class has no usable defaults."""
        if settings["patch_size"] is None or settings["norm_type"] != "ada_norm_single":
            raise ValueError(
                "config: LatteTransformer3DModel needs a patch_size and norm_type: ada_norm_single"
            )

    def check_shape(self, shape: VideoShape) -> None:
        """Check that the position table has this many frames, and that patches tile the video."""
        settings = self.settings(self.largest)
        if shape.frames != settings["video_length"]:
            raise ValueError(
                f"{shape.frames} frames, but config.video_length is {settings['video_length']}"
            )
        patch = settings["patch_size"]
        check_patches(shape, 1, patch, patch)

    def kept(self, at: Dimension) -> Segments | None:
        """Return prefixes of the six modulations of a block, and of values and gates."""
        if at.tensor.startswith("adaln_single.linear.") and at.dim == 0:
            return at.equal_parts(6)
        if ".ff.net.0.proj." in at.tensor and at.dim == 0 and "glu" in at.settings["activation_fn"]:
            return at.equal_parts(2)
        return None

    def interchangeable(self) -> list[Units]:
        """Return heads and hidden units; channels have places in the tables of positions."""
        shapes = self.full_shapes
        head_dim = self.settings(self.largest)["attention_head_dim"]
        return [
            *units.heads(shapes, head_dim),
            *units.feed_forward(shapes),
            *units.embedders(shapes),
        ]
