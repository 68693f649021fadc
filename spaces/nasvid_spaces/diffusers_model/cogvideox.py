"""CogVideoXTransformer3DModel: the video transformer of CogVideoX, of any width and depth."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from einops import rearrange
from torch import nn

from nasvid.shapes import DenoiserInput, VideoShape
from nasvid.slices import Segments
from nasvid.units import Units
from nasvid_spaces.diffusers_model import units
from nasvid_spaces.diffusers_model.frequencies import nearest_frequencies
from nasvid_spaces.diffusers_model.space import (
    DiffusersModelSpace,
    Dimension,
    Settings,
    check_patches,
)

READ = (".attn1.to_q", ".attn1.to_k", ".attn1.to_v", ".ff.net.0.proj", "proj_out")
WRITTEN = (
    "patch_embed.proj",
    "patch_embed.text_proj",
    ".norm1.linear",
    ".norm2.linear",
    "norm_out.linear",
    ".norm1.norm",
    ".norm2.norm",
    "norm_out.norm",
    "norm_final",
    ".to_out.0",
    ".ff.net.2",
)
"""Layers whose inputs, or whose outputs, are the residual stream's channels."""


class CogVideoXSpace(DiffusersModelSpace):
    """diffusers' `CogVideoXTransformer3DModel`, for text to video.

    A narrower subnet has fewer heads, and an embedding of time of fewer frequencies. The model
    takes no text mask: padding is set to zero, unless the text encoder keeps it as the pipeline
    does.
    """

    model = "CogVideoXTransformer3DModel"
    searchable = ("num_attention_heads", "num_layers")
    blocks = {"num_layers": ("transformer_blocks",)}  # noqa: RUF012 (constant)
    refused = {  # noqa: RUF012 (constant)
        "attention_head_dim": "a shorter head is not a slice of a longer one; choose "
        "num_attention_heads",
        "time_embed_dim": "it is small beside the blocks that read it",
    }

    @classmethod
    def narrowed(cls, settings: Settings) -> Sequence[str]:
        """Return the heads, unless a table gives channels positions that differ by width."""
        return ["num_attention_heads"] if settings["use_rotary_positional_embeddings"] else []

    def derived(self, settings: Settings) -> Settings:
        """Return the channels of video and text."""
        del settings
        channels = self.domain.channels
        return {
            "in_channels": channels,
            "out_channels": channels,
            "text_embed_dim": self.domain.context_dim,
        }

    def check(self, settings: Settings) -> None:
        """Check that the model makes videos from text alone."""
        for key in ("ofs_embed_dim", "use_learned_positional_embeddings"):
            if settings[key]:
                raise ValueError(f"config.{key}: models that begin from an image are not supported")

    def check_shape(self, shape: VideoShape) -> None:
        """Check that patches tile the video, and that positions are known for the text."""
        settings = self.settings(self.largest)
        patch = settings["patch_size"]
        check_patches(shape, settings["patch_size_t"] or 1, patch, patch)
        most = settings["max_text_seq_length"]
        if not settings["use_rotary_positional_embeddings"] and shape.context_len != most:
            raise ValueError(
                f"{shape.context_len} text tokens, but config.max_text_seq_length is {most}; set "
                "data.context_len to it"
            )

    def denoise(self, model: nn.Module, x: DenoiserInput) -> torch.Tensor:
        """Run a model, which is not conditioned on the frame rate."""
        video = rearrange(x.sample, "b c t h w -> b t c h w")
        predicted = model(
            video,
            x.context * x.context_mask[..., None],
            x.timestep,
            image_rotary_emb=self._rotary(video),
            return_dict=False,
        )[0]
        return rearrange(predicted, "b t c h w -> b c t h w")

    def _rotary(self, video: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor] | None:
        """Return the rotary positions of a video, `b t c h w`, as the pipeline makes them."""
        from diffusers.models.embeddings import get_3d_rotary_pos_embed
        from diffusers.pipelines.cogvideo.pipeline_cogvideox import get_resize_crop_region_for_grid

        settings = self.settings(self.largest)
        if not settings["use_rotary_positional_embeddings"]:
            return None
        patch, patch_t = settings["patch_size"], settings["patch_size_t"]
        frames, _, height, width = video.shape[1:]
        grid = height // patch, width // patch
        base = settings["sample_height"] // patch, settings["sample_width"] // patch
        common = {"embed_dim": settings["attention_head_dim"], "device": video.device}
        if patch_t is None:
            return get_3d_rotary_pos_embed(  # pyright: ignore[reportReturnType]
                crops_coords=get_resize_crop_region_for_grid(grid, base[1], base[0]),
                grid_size=grid,
                temporal_size=frames,
                **common,
            )
        return get_3d_rotary_pos_embed(  # pyright: ignore[reportReturnType]
            crops_coords=None,
            grid_size=grid,
            temporal_size=-(-frames // patch_t),
            grid_type="slice",
            max_size=base,
            **common,
        )

    def kept(self, at: Dimension) -> Segments | None:
        """Return prefixes of the modulations, and the nearest frequencies of the time."""
        if at.tensor.startswith("time_embedding.linear_1.") and at.dim == 1:
            return nearest_frequencies(at.kept, at.size)
        if at.tensor.startswith("norm_out.linear.") and at.dim == 0:
            return at.equal_parts(2)
        if at.dim == 0 and (".norm1.linear." in at.tensor or ".norm2.linear." in at.tensor):
            return at.equal_parts(6)
        return None

    def interchangeable(self) -> list[Units]:
        """Return heads and hidden units, and channels unless a table gives them positions."""
        shapes, settings = self.full_shapes, self.settings(self.largest)
        width = settings["num_attention_heads"] * settings["attention_head_dim"]
        channels = units.channels(shapes, width, written=WRITTEN, read=READ)
        return [
            *([channels] if settings["use_rotary_positional_embeddings"] else []),
            *units.heads(shapes, settings["attention_head_dim"]),
            *units.feed_forward(shapes),
            *units.embedders(shapes),
        ]
