"""Which digit a video shows."""

from __future__ import annotations

from functools import lru_cache
from pathlib import Path

import torch
from einops import rearrange, reduce
from torch import nn
from torch.nn import functional as F

from nasvid.metrics.motion import centroids, light_of

WEIGHTS = Path(__file__).parent / "embedded" / "digit_reader.safetensors"
"""The weights that ship with nasvid; the README.md next to them says how they were made."""
SIDE = 16
"""Height and width of what the reader sees, in pixels."""
PART = 0.625
"""The part of a frame's height and width that it sees: a digit fills half of the frame."""
NOTHING = 10
"""The reader's class for what is no legible digit."""
SURE = 0.1
"""Least probability of a digit that counts. It is low because many real ones are badly written;
what is none has less than 0.03 at the median."""


class DigitReader(nn.Module):
    """A small convolutional classifier of pictures: the ten digits, and `NOTHING`."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            *_block(1, 16), nn.MaxPool2d(2), *_block(16, 32), nn.MaxPool2d(2), *_block(32, 48)
        )
        self.head = nn.Sequential(nn.Dropout(0.4), nn.Linear(48 * (SIDE // 4) ** 2, NOTHING + 1))

    def forward(self, pictures: torch.Tensor) -> torch.Tensor:
        """Return logits `n 11` of pictures `n 1 h w`, float32 in [0, 1], of `SIDE` pixels."""
        return self.head(self.layers(pictures).flatten(1))

    @torch.no_grad()
    def read(self, video: torch.Tensor) -> torch.Tensor:
        """Return the digit that each video shows, int64 `b`; `NOTHING` if none is legible.

        video: `b 3 t h w`, in [-1, 1]. The digit with the highest mean probability over the frames
        is shown if that is at least `SURE`.
        """
        pictures = around_digit(video)
        chances = self(rearrange(pictures, "b t h w -> (b t) 1 h w")).softmax(dim=1)
        mean = reduce(chances, "(b t) c -> b c", "mean", t=pictures.shape[1])
        best, digit = mean[:, :NOTHING].max(dim=1)
        return digit.where(best >= SURE, NOTHING)


def _block(channels: int, to: int) -> tuple[nn.Module, ...]:
    return nn.Conv2d(channels, to, 3, padding=1, bias=False), nn.BatchNorm2d(to), nn.ReLU()


@lru_cache(maxsize=1)
def embedded_reader() -> DigitReader:
    """Return the reader that ships with nasvid, on the CPU, in eval mode."""
    from safetensors.torch import load_file

    with torch.device("meta"):
        reader = DigitReader()
    weights = {name: tensor.float() for name, tensor in load_file(WEIGHTS).items()}
    reader.load_state_dict(weights, assign=True, strict=False)
    return reader.eval().requires_grad_(False)


def around_digit(video: torch.Tensor) -> torch.Tensor:
    """Return the light around each frame's centroid, resized: `b t h w` of `SIDE` pixels."""
    light = light_of(video)
    batch, frames = light.shape[:2]
    theta = torch.zeros(batch * frames, 2, 3)
    theta[:, 0, 0] = theta[:, 1, 1] = PART
    theta[:, :, 2] = centroids(light).flatten(0, 1)
    grid = F.affine_grid(theta, [batch * frames, 1, SIDE, SIDE], align_corners=False)
    flat = rearrange(light, "b t h w -> (b t) 1 h w")
    seen = F.grid_sample(flat, grid, align_corners=False)
    return rearrange(seen, "(b t) 1 h w -> b t h w", b=batch)
