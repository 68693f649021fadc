"""A search space of another shape than the UNet: a small video transformer."""

import torch
from torch import nn
from torch.nn import functional as F

from nasvid import Choice, SearchSpace, register


class Block(nn.Module):
    def __init__(self, width, hidden):
        super().__init__()
        self.norm1, self.norm2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.q, self.k, self.v, self.out = (nn.Linear(width, width) for _ in range(4))
        self.up, self.down = nn.Linear(width, hidden), nn.Linear(hidden, width)

    def forward(self, x, mask):
        y = self.norm1(x)  # heads of 16 channels: a narrower block has fewer, not smaller ones
        q, k, v = (f(y).unflatten(-1, (-1, 16)).transpose(1, 2) for f in (self.q, self.k, self.v))
        attended = F.scaled_dot_product_attention(q, k, v, attn_mask=mask)
        x = x + self.out(attended.transpose(1, 2).flatten(2))
        return x + self.down(F.gelu(self.up(self.norm2(x))))


class TinyDiT(nn.Module):
    def __init__(self, channels, text, width, hidden):
        super().__init__()
        self.text, self.when, self.where = (nn.Linear(n, width) for n in (text, 16, 3))
        self.patch = nn.Conv3d(channels, width, (1, 4, 4), (1, 4, 4))
        self.blocks = nn.ModuleDict({str(i): Block(width, n) for i, n in enumerate(hidden) if n})
        self.head = nn.ConvTranspose3d(width, channels, (1, 4, 4), (1, 4, 4))

    def forward(self, sample, timestep, context, context_mask, fps):
        patches = self.patch(sample)  # b c t h w, then one sequence of text and patches: b n c
        axes = [torch.linspace(-1, 1, n, device=sample.device) for n in patches.shape[2:]]
        place = self.where(torch.stack(torch.meshgrid(*axes, indexing="ij"), -1)).flatten(0, 2)
        x = torch.cat([self.text(context), patches.flatten(2).mT + place], 1)
        waves = timestep[:, None] / 1000 * torch.arange(1, 9, device=sample.device)
        x = x + self.when(torch.cat([waves.sin(), waves.cos()], 1))[:, None]
        mask = F.pad(context_mask, (0, len(place)), value=True)[:, None, None]
        for block in self.blocks.values():
            x = block(x, mask)
        return self.head(x[:, -len(place) :].mT.unflatten(2, patches.shape[2:]))


@register("spaces", "tiny_dit")
class TinyDiTSpace(SearchSpace):
    """A small video transformer: its width, and each block's hidden size or that it is absent."""

    def make_choices(self):
        blocks = [Choice(f"block.{i}.hidden", (0, 64, 128)) for i in range(4)]
        return [Choice("width", (32, 48, 64)), *blocks]

    def build(self, arch):
        hidden = [arch[f"block.{i}.hidden"] for i in range(4)]
        return TinyDiT(self.domain.channels, self.domain.context_dim, arch["width"], hidden)
