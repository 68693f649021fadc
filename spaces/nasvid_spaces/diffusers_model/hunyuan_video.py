"""HunyuanVideoTransformer3DModel: the video transformer of HunyuanVideo, of any width and depth."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import torch
from einops import repeat
from torch import nn
from torch.nn import functional as F

from nasvid.shapes import DenoiserInput, VideoShape
from nasvid.slices import Segments
from nasvid.units import Place, Units
from nasvid_spaces.diffusers_model import units
from nasvid_spaces.diffusers_model.space import (
    DiffusersModelSpace,
    Dimension,
    Settings,
    check_patches,
)

GUIDANCE = 1000.0
"""What models with guidance inside take for a guidance scale of 1, that is, none."""
PARTS = {".norm1.linear": 6, ".norm1_context.linear": 6, ".norm.linear": 3, "norm_out.linear": 2}
"""Layers that give several modulations at once, and how many."""

ATTENTION = (".to_q", ".to_k", ".to_v", ".add_q_proj", ".add_k_proj", ".add_v_proj")
READ = (*ATTENTION, ".net.0.proj", ".proj_mlp")
WRITTEN = (
    "x_embedder.proj",
    ".proj_in",
    *PARTS,
    ".norm1",
    ".norm2",
    ".to_out.0",
    ".to_add_out",
    ".net.2",
    ".proj_out",
)
"""Layers whose inputs, or whose outputs, are the residual streams' channels, besides the last."""


class HunyuanVideoSpace(DiffusersModelSpace):
    """diffusers' `HunyuanVideoTransformer3DModel`, for text to video.

    The pooled text comes from the pipeline's second text encoder, if the recipe's has one; else it
    is the embedding of the last real token, cut or padded with zeros to `pooled_projection_dim`.
    Models with guidance inside (`guidance_embeds`) are told a scale of 1.
    """

    model = "HunyuanVideoTransformer3DModel"
    searchable = ("num_attention_heads", "mlp_ratio", "num_layers", "num_single_layers")
    blocks = {  # noqa: RUF012 (constant)
        "num_layers": ("transformer_blocks",),
        "num_single_layers": ("single_transformer_blocks",),
    }
    refused = {  # noqa: RUF012 (constant)
        "attention_head_dim": "rotary positions depend on a channel's index in its head, so a "
        "shorter head is not a slice of a longer one; choose num_attention_heads",
        "num_refiner_layers": "the refiner's few layers cost next to nothing",
    }

    def derived(self, settings: Settings) -> Settings:
        """Return the channels of video and text."""
        del settings
        channels, pooled = self.domain.channels, self.domain.pooled_dim
        return {
            "in_channels": channels,
            "out_channels": channels,
            "text_embed_dim": self.domain.context_dim,
            **({"pooled_projection_dim": pooled} if pooled else {}),
        }

    def check(self, settings: Settings) -> None:
        """Check that heads and positions agree, and that the model takes no image."""
        axes, head = sum(settings["rope_axes_dim"]), settings["attention_head_dim"]
        if axes != head:
            raise ValueError(
                f"config.rope_axes_dim: its sum is {axes}, but attention_head_dim is {head}; the "
                "two must be equal"
            )
        if settings["image_condition_type"] is not None:
            raise ValueError(
                "config.image_condition_type: models that begin from an image are not supported"
            )

    def check_shape(self, shape: VideoShape) -> None:
        """Check that patches tile the video."""
        settings = self.settings(self.largest)
        patch = settings["patch_size"]
        check_patches(shape, settings["patch_size_t"], patch, patch)

    def denoise(self, model: nn.Module, x: DenoiserInput) -> torch.Tensor:
        """Run a model, which is not conditioned on the frame rate."""
        settings = self.settings(self.largest)
        guidance = None
        if settings["guidance_embeds"]:
            guidance = x.context.new_full(x.timestep.shape, GUIDANCE)
        context, mask = x.context, x.context_mask
        if self.domain.pooled_dim:
            context, mask = context[:, :-1], mask[:, :-1]
        return model(
            x.sample,
            timestep=x.timestep,
            encoder_hidden_states=context,
            encoder_attention_mask=mask,
            pooled_projections=_last_token(x, settings["pooled_projection_dim"]),
            guidance=guidance,
            return_dict=False,
        )[0]

    def kept(self, at: Dimension) -> Segments | None:
        """Return prefixes of the modulations, and of attention and feed-forward side by side."""
        layer = at.tensor.removesuffix(".weight").removesuffix(".bias")
        for ending, parts in PARTS.items():
            if layer.endswith(ending) and at.dim == 0:
                return at.equal_parts(parts)
        if at.tensor.startswith("single_") and layer.endswith(".proj_out") and at.dim == 1:
            return Segments.prefixes(_joined(at.settings), _joined(at.largest))
        return None

    def interchangeable(self) -> list[Units]:
        """Return channels, those of the conditioning, heads and hidden units."""
        shapes, settings = self.full_shapes, self.settings(self.largest)
        head_dim = settings["attention_head_dim"]
        return [
            *_channels(shapes, _joined(settings)[0]),
            *_heads(shapes, head_dim),
            *units.feed_forward(shapes),
            *_single_units(shapes),
            *units.embedders(shapes),
        ]


def _last_token(x: DenoiserInput, size: int) -> torch.Tensor:
    """Return the embedding of each text's last real token, `b size`."""
    places = torch.arange(x.context_mask.shape[1], device=x.context_mask.device)
    last = (x.context_mask * places).argmax(dim=1)
    index = repeat(last, "b -> b 1 d", d=x.context.shape[2])
    pooled = x.context.gather(1, index)[:, 0]
    return F.pad(pooled, (0, max(0, size - pooled.shape[1])))[:, :size]


def _joined(settings: Settings) -> tuple[int, int]:
    """Return the channels of a single-stream block's attention and feed-forward."""
    width = settings["num_attention_heads"] * settings["attention_head_dim"]
    return width, int(width * settings["mlp_ratio"])


def _channels(shapes: Mapping[str, torch.Size], width: int) -> Iterator[Units]:
    """Yield the channels of the residual streams, and of what blocks are modulated by."""
    streams = units.channels(shapes, width, written=WRITTEN, read=READ)
    yield Units(streams.name, width, (*streams.places, Place("proj_out.weight", 1)))
    for name, is_refiner in (("conditioning", False), ("text conditioning", True)):
        part = {
            tensor: shape
            for tensor, shape in shapes.items()
            if tensor.startswith("context_embedder.") == is_refiner
        }
        written = ("_embedder.linear_2",)
        yield units.channels(part, width, written=written, read=tuple(PARTS), name=name)


def _heads(shapes: Mapping[str, torch.Size], head_dim: int) -> Iterator[Units]:
    yield from units.heads(shapes, head_dim)
    for name in shapes:
        if name.startswith("single_") and name.endswith(".attn.to_q.weight"):
            layer = name.removesuffix(".attn.to_q.weight")
            places = units.attended(f"{layer}.attn", shapes, head_dim)
            read = Place(f"{layer}.proj_out.weight", 1, head_dim)
            yield Units(f"{layer}.attn.heads", shapes[name][0] // head_dim, (read, *places))


def _single_units(shapes: Mapping[str, torch.Size]) -> Iterator[Units]:
    """Yield the feed-forward units of single-stream blocks, whose output reads attention first."""
    for name, shape in shapes.items():
        if name.endswith(".proj_mlp.weight"):
            layer = name.removesuffix(".proj_mlp.weight")
            start = shapes[f"{layer}.proj_out.weight"][1] - shape[0]
            read = Place(f"{layer}.proj_out.weight", 1, start=start)
            places = units.produced(f"{layer}.proj_mlp", shapes)
            yield Units(f"{layer}.units", shape[0], (read, *places))
