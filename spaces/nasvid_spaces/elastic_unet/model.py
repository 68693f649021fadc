"""VideoUNet: a text-conditioned video denoiser, a plain module with diffusers' save and load."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import TypedDict

import torch
from diffusers.configuration_utils import ConfigMixin, register_to_config
from diffusers.models.modeling_utils import ModelMixin
from einops import rearrange, repeat
from torch import nn
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

from nasvid_spaces.elastic_unet.layers import (
    LAYERS,
    PLACES,
    Conditions,
    CrossAttention,
    Modulation,
    SelfAttention,
    SpatialConv,
    TemporalAttention,
    TemporalConv,
    group_norm,
    places,
    shrink,
    sinusoid,
)


class BlockConfig(TypedDict):
    """The config of one block; plain data, so that a model's config is JSON."""

    layers: list[str]
    """Which of `LAYERS` it has."""
    hidden: int
    """Channels between the two spatial convolutions; 0 without them."""


class Block(nn.Module):
    """Residual layers one after the other, each of which may be absent.

    A decoder's block takes `[h, skip]`, twice its width, which a 1x1 `shortcut` projects to its
    width. Attention comes without the feed-forward layers of a transformer, as in ADM (arXiv
    2105.05233): the convolutions play that role.
    """

    def __init__(
        self,
        config: BlockConfig,
        width: int,
        *,
        decoder: bool,
        embedding: int,
        head_dim: int,
        group: int,
    ) -> None:
        super().__init__()
        inputs = 2 * width if decoder else width
        self.shortcut = nn.Conv2d(inputs, width, 1) if decoder else None
        make = {
            "spatial_conv": lambda: SpatialConv(inputs, config["hidden"], width, embedding, group),
            "temporal_conv": lambda: TemporalConv(width, group),
            "self_attention": lambda: SelfAttention(width, head_dim, group),
            "cross_attention": lambda: CrossAttention(width, embedding, head_dim, group),
            "temporal_attention": lambda: TemporalAttention(width, head_dim, group),
        }
        for name in LAYERS:
            setattr(self, name, make[name]() if name in config["layers"] else None)

    def forward(self, x: torch.Tensor, conditions: Conditions) -> torch.Tensor:
        """Return `(b t) width h w` of `(b t) c h w`; c is the width, or twice it in a decoder."""
        h = x if self.shortcut is None else self.shortcut(x)
        for name in LAYERS:
            layer = getattr(self, name)
            if layer is not None:
                h = h + layer(x if name == "spatial_conv" else h, conditions)
        return h


class Conditioning(nn.Module):
    """Computes the conditions of all layers from timestep, text, resolution and frame rate."""

    def __init__(self, width: int, context_dim: int) -> None:
        super().__init__()
        self.features = width // 4
        self.time1 = nn.Linear(self.features, width)
        self.time2 = nn.Linear(width, width)
        self.size = nn.Linear(3 * self.features, width)
        self.text = nn.Linear(context_dim, width)
        self.caption = nn.Linear(width, width)
        self.null_token = nn.Parameter(torch.randn(width) * 0.02)

    def forward(
        self,
        sample: torch.Tensor,
        timestep: torch.Tensor,
        context: torch.Tensor,
        context_mask: torch.Tensor,
        fps: torch.Tensor,
    ) -> Conditions:
        """Return the conditions of a batch."""
        batch, _, frames, height, width = sample.shape
        dtype = self.null_token.dtype
        text = self.text(context.to(dtype))
        mask = context_mask[..., None].to(dtype)
        # Divided by the root of their number, so that no word vanishes in a long caption.
        caption = (text * mask).sum(1) / mask.sum(1).clamp(min=1).sqrt()
        sizes = torch.stack([fps.new_full((batch,), height), fps.new_full((batch,), width), fps], 1)
        # Logarithms, so that each doubling counts the same; scaled to hundreds for the sinusoid.
        size = sinusoid(100 * sizes.log2(), self.features).flatten(1).to(dtype)
        time = F.silu(self.time1(sinusoid(timestep, self.features).to(dtype)))
        embedding = F.silu(self.time2(time) + self.size(size) + self.caption(caption))
        # Every clip has a null token, so that one without a caption has something to attend to.
        text = torch.cat([self.null_token.expand(batch, 1, -1), text], dim=1)
        seen = F.pad(context_mask, (1, 0), value=True)[:, None, None]
        return Conditions(embedding, text, seen, frames)


class VideoUNet(ModelMixin, ConfigMixin):
    """A UNet of blocks that mix space, text and time.

    Encoder and decoder have the same number of blocks at each level; each block of the decoder
    takes the output of its mirror image in the encoder as skip.

    channels: of the video. context_dim: of one text token's embedding.
    widths: channels of each level, from the highest resolution to the lowest.
    blocks: position -> its block. Positions are `down.LEVEL.INDEX`, `middle`, `up.LEVEL.INDEX`;
        they are the modules' names, too.
    conditioning_width: channels of the embedding and of the projected text.
    head_dim: channels of one attention head. group_size: channels of one norm's group.
    patch_size: pixels per position of the highest level, along height and width.
    """

    _supports_gradient_checkpointing = True

    @register_to_config
    def __init__(
        self,
        channels: int,
        context_dim: int,
        widths: Sequence[int],
        blocks: Mapping[str, BlockConfig],
        conditioning_width: int,
        head_dim: int,
        group_size: int,
        patch_size: int = 1,
    ) -> None:
        super().__init__()
        self.gradient_checkpointing = False
        self.patch_size = patch_size

        def block(position: str, width: int) -> Block:
            return Block(
                blocks[position],
                width,
                decoder=position.startswith("up"),
                embedding=conditioning_width,
                head_dim=head_dim,
                group=group_size,
            )

        def level(side: str, n: int) -> nn.ModuleList:
            count = sum(position.startswith(f"{side}.{n}.") for position in blocks)
            return nn.ModuleList(block(f"{side}.{n}.{i}", widths[n]) for i in range(count))

        patch = channels * patch_size**2
        steps = list(pairwise(widths))
        self.conditioning = Conditioning(conditioning_width, context_dim)
        self.stem = nn.Conv2d(patch + PLACES, widths[0], 3, padding=1)
        self.down = nn.ModuleList(level("down", n) for n in range(len(widths)))
        self.downsample = nn.ModuleList(nn.Conv2d(a, b, 3, 2, padding=1) for a, b in steps)
        self.middle = block("middle", widths[-1])
        self.upsample = nn.ModuleList(nn.Conv2d(b, a, 3, padding=1) for a, b in steps)
        self.up = nn.ModuleList(level("up", n) for n in range(len(widths)))
        self.norm = group_norm(widths[0], group_size)
        self.modulation = Modulation(conditioning_width, widths[0])
        self.out = nn.Conv2d(widths[0], patch, 3, padding=1)
        shrink(self.out)

    def forward(
        self,
        sample: torch.Tensor,
        timestep: torch.Tensor,
        context: torch.Tensor,
        context_mask: torch.Tensor,
        fps: torch.Tensor,
    ) -> torch.Tensor:
        """Return the prediction `b c t h w` for a noisy video.

        sample: `b c t h w`; height and width multiples of `patch_size * 2**(levels - 1)`.
        timestep: `b`. context: `b l d`. context_mask: `b l`, bool, True where a token is real.
        fps: `b`, frames per second.

        Raises:
            ValueError: height or width is no such multiple.
        """
        multiple = self.patch_size * 2 ** len(self.downsample)
        if any(side % multiple for side in sample.shape[-2:]):
            size = "x".join(map(str, sample.shape[-2:]))
            raise ValueError(f"A height and width of {size} are not multiples of {multiple}")
        conditions = self.conditioning(sample, timestep, context, context_mask, fps)
        pictures = rearrange(sample, "b c t h w -> (b t) c h w")
        patches = F.pixel_unshuffle(pictures, self.patch_size)
        # What moves where in pure noise depends on a frame's place in its clip; attention, to whose
        # inputs alone a position is added, learns that only after many more steps.
        place = places(conditions.frames, patches)
        (height, width), batch = patches.shape[2:], sample.shape[0]  # len() fixes it in exports
        place = repeat(place, "t k -> t k h w", h=height, w=width).repeat(batch, 1, 1, 1)
        patches = torch.cat([patches, place], dim=1)
        # Channels last in memory, which suits convolution, norm and attention alike.
        x = stem = self.stem(patches.contiguous(memory_format=torch.channels_last))
        skips = []
        for n, level in enumerate(self.down):
            for block in level:  # pyright: ignore[reportGeneralTypeIssues]
                x = self._run(block, x, conditions)
                skips.append(x)
            if n < len(self.downsample):
                x = self.downsample[n](x)
        x = self._run(self.middle, x, conditions)
        for n in reversed(range(len(self.up))):
            for block in self.up[n]:  # pyright: ignore[reportGeneralTypeIssues]
                x = self._run(block, torch.cat([x, skips.pop()], dim=1), conditions)
            if n > 0:
                # Narrowed before upsampling: a quarter of the cost, and the blocks smooth it.
                x = F.interpolate(self.upsample[n - 1](x), scale_factor=2.0)
        # The noise in the prediction is linear in the input, by a factor that depends on time:
        # a residual from the stem and a linear, modulated output learn it many times faster.
        x = self.out(self.modulation(self.norm(x + stem), conditions))
        pictures = F.pixel_shuffle(x, self.patch_size)
        return rearrange(pictures, "(b t) c h w -> b c t h w", t=conditions.frames)

    def _run(self, block: nn.Module, x: torch.Tensor, conditions: Conditions) -> torch.Tensor:
        if self.gradient_checkpointing and torch.is_grad_enabled():
            return checkpoint(block, x, conditions, use_reentrant=False)
        return block(x, conditions)
