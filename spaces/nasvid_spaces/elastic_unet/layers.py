"""The residual layers of the video UNet: convolutions and attentions over space, time and text.

All work on `(b t) c h w`. Fused projections are laid out head by head and channel by channel
(q, k, v of the first head, then of the second), so that a slice of them is a prefix.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from einops import rearrange, repeat
from torch import nn
from torch.nn import functional as F

CONVOLUTIONS = ("spatial_conv", "temporal_conv")
ATTENTIONS = ("self_attention", "cross_attention", "temporal_attention")
LAYERS = CONVOLUTIONS + ATTENTIONS
"""The layers that a block may have, in execution order."""
PLACES = 3
"""Channels of the stem's input that say where in its clip a frame is."""
RESIDUAL_GAIN = 0.3
"""Scale of the initial weights of each residual branch's last projection, relative to the default.

Below one, so that a deep model starts near the identity and trains stably; not zero, so that no
weight of an active layer has a gradient of exactly zero in the first step.
"""


@dataclass(frozen=True, slots=True)
class Conditions:
    """Every layer's inputs besides the video.

    embedding: `b e`; time, resolution, frame rate and the caption as a whole.
    text: `b l e`; the caption's tokens, and a null token that every clip has.
    text_mask: `b 1 1 l`, bool; True where a token is real.
    frames: t of `(b t)`.
    """

    embedding: torch.Tensor
    text: torch.Tensor
    text_mask: torch.Tensor
    frames: int


def sinusoid(value: torch.Tensor, dim: int) -> torch.Tensor:
    """Return `... dim` sines and cosines, for values in the hundreds (arXiv 1706.03762, 3.5)."""
    half = torch.arange(dim // 2, device=value.device, dtype=torch.float32)
    angles = value.float()[..., None] * torch.exp(half * (-math.log(10_000) / (dim // 2)))
    return torch.cat([angles.cos(), angles.sin()], dim=-1)


def places(frames: int, like: torch.Tensor) -> torch.Tensor:
    """Return `t PLACES`: where each frame is in its clip, as the first cosines of a DCT over it.

    like: has the dtype and the device.
    """
    middles = (torch.arange(frames, device=like.device, dtype=torch.float32) + 0.5) / frames
    halves = torch.arange(1, PLACES + 1, device=like.device)
    return (math.pi * middles[:, None] * halves).cos().to(like.dtype)


def shrink(layer: nn.Conv2d | nn.Linear) -> None:
    """Scale a last projection's fresh weights down to `RESIDUAL_GAIN` of their default."""
    with torch.no_grad():
        layer.weight.mul_(RESIDUAL_GAIN)
        if layer.bias is not None:
            layer.bias.zero_()


def group_norm(width: int, group_size: int) -> nn.GroupNorm:
    """Return a norm with groups of constant size: their statistics do not depend on the width."""
    return nn.GroupNorm(width // group_size, width)


class Modulation(nn.Module):
    """Scales and shifts each channel by the embedding (adaptive norm, arXiv 2105.05233)."""

    def __init__(self, embedding: int, width: int) -> None:
        super().__init__()
        self.linear = nn.Linear(embedding, 2 * width)

    def forward(self, x: torch.Tensor, conditions: Conditions) -> torch.Tensor:
        """Return `(b t) c h w` modulated."""
        pairs = self.linear(conditions.embedding)
        scale, shift = repeat(pairs, "b (c two) -> two (b t) c 1 1", two=2, t=conditions.frames)
        return x * (1 + scale) + shift


class SpatialConv(nn.Module):
    """Two 3x3 convolutions, modulated by the embedding in between."""

    def __init__(self, inputs: int, hidden: int, width: int, embedding: int, group: int) -> None:
        super().__init__()
        self.norm1 = group_norm(inputs, group)
        self.conv1 = nn.Conv2d(inputs, hidden, 3, padding=1)
        self.norm2 = group_norm(hidden, group)
        self.modulation = Modulation(embedding, hidden)
        self.conv2 = nn.Conv2d(hidden, width, 3, padding=1)
        shrink(self.conv2)

    def forward(self, x: torch.Tensor, conditions: Conditions) -> torch.Tensor:
        """Return the residual, `(b t) width h w`, of `(b t) inputs h w`."""
        x = self.norm2(self.conv1(F.silu(self.norm1(x))))
        return self.conv2(F.silu(self.modulation(x, conditions)))


class TemporalConv(nn.Module):
    """A convolution over three frames, as a 2D one of kernel (3, 1) on `b c t (h w)`."""

    def __init__(self, width: int, group: int) -> None:
        super().__init__()
        self.norm = group_norm(width, group)
        self.conv = nn.Conv2d(width, width, (3, 1), padding=(1, 0))
        shrink(self.conv)

    def forward(self, x: torch.Tensor, conditions: Conditions) -> torch.Tensor:
        """Return the residual of `(b t) c h w`."""
        hidden = F.silu(self.norm(x))
        video = rearrange(hidden, "(b t) c h w -> b c t (h w)", t=conditions.frames)
        return rearrange(self.conv(video), "b c t (h w) -> (b t) c h w", h=x.shape[2])


class SelfAttention(nn.Module):
    """Attention of each frame's positions to one another."""

    def __init__(self, width: int, head_dim: int, group: int) -> None:
        super().__init__()
        self.head_dim = head_dim
        self.norm = group_norm(width, group)
        self.qkv = nn.Linear(width, 3 * width)
        self.out = nn.Linear(width, width)
        shrink(self.out)

    def tokens(self, x: torch.Tensor, conditions: Conditions) -> torch.Tensor:
        """Return what attends to one another: `(b t) (h w) c` of `(b t) c h w`."""
        del conditions
        return rearrange(self.norm(x), "n c h w -> n (h w) c")

    def forward(self, x: torch.Tensor, conditions: Conditions) -> torch.Tensor:
        """Return the residual of `(b t) c h w`."""
        qkv = self.qkv(self.tokens(x, conditions))
        heads = "n l (heads three d) -> three n heads l d"
        q, k, v = rearrange(qkv, heads, three=3, d=self.head_dim)
        seen = F.scaled_dot_product_attention(q, k, v)
        return self.video(self.out(rearrange(seen, "n heads l d -> n l (heads d)")), x)

    def video(self, tokens: torch.Tensor, x: torch.Tensor) -> torch.Tensor:
        """Return tokens as a video of the shape of `x`."""
        return rearrange(tokens, "n (h w) c -> n c h w", h=x.shape[2])


class TemporalAttention(SelfAttention):
    """Attention of each position's frames to one another, with sinusoidal frame positions."""

    def tokens(self, x: torch.Tensor, conditions: Conditions) -> torch.Tensor:
        """Return what attends to one another: `(b h w) t c` of `(b t) c h w`."""
        frames = torch.arange(conditions.frames, device=x.device)
        # All heads repeat the same code, so a channel's code does not depend on the width.
        code = sinusoid(frames, self.head_dim).to(x.dtype).repeat(1, x.shape[1] // self.head_dim)
        video = rearrange(self.norm(x), "(b t) c h w -> b (h w) t c", t=conditions.frames)
        return rearrange(video + code, "b p t c -> (b p) t c")

    def video(self, tokens: torch.Tensor, x: torch.Tensor) -> torch.Tensor:
        """Return tokens `(b h w) t c` as a video of the shape of `x`."""
        # In two steps: in one, channels would come before positions in memory.
        frames = rearrange(tokens, "(b p) t c -> (b t) p c", p=x.shape[2:].numel())
        return super().video(frames, x)


class CrossAttention(nn.Module):
    """Attention of every position to the caption's tokens."""

    def __init__(self, width: int, embedding: int, head_dim: int, group: int) -> None:
        super().__init__()
        self.head_dim = head_dim
        self.norm = group_norm(width, group)
        self.q = nn.Linear(width, width)
        self.kv = nn.Linear(embedding, 2 * width)
        self.out = nn.Linear(width, width)
        shrink(self.out)

    def forward(self, x: torch.Tensor, conditions: Conditions) -> torch.Tensor:
        """Return the residual of `(b t) c h w`."""
        frames, d = conditions.frames, self.head_dim
        video = rearrange(self.norm(x), "(b t) c h w -> b (t h w) c", t=frames)
        q = rearrange(self.q(video), "b l (heads d) -> b heads l d", d=d)
        kv = self.kv(conditions.text)
        k, v = rearrange(kv, "b l (heads two d) -> two b heads l d", two=2, d=d)
        seen = F.scaled_dot_product_attention(q, k, v, attn_mask=conditions.text_mask)
        out = self.out(rearrange(seen, "b heads l d -> b l (heads d)"))
        return rearrange(out, "b (t h w) c -> (b t) c h w", t=frames, h=x.shape[2])
