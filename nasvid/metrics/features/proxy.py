"""Features of a small network that ships with nasvid, for where nothing can be fetched."""

from __future__ import annotations

from functools import cached_property
from pathlib import Path

import torch
from einops import rearrange
from torch import nn
from torch.nn import functional as F

from nasvid.feature_extractor import FeatureExtractor
from nasvid.host.aligned import read_tensors
from nasvid.host.reading import sha256

WEIGHTS = Path(__file__).parent / "embedded" / "proxy.safetensors"
SIDE = 32
"""Height and width that clips are resized to, in pixels."""
WIDTHS = (12, 24, 48)
DIM = 16
"""Numbers of a clip: few enough that some fifty clips determine their covariance."""
GRID = (4, 2, 2)
"""Frames, height and width that the last layer is averaged to."""


class ProxyNet(nn.Module):
    """Strided 3D convolutions; the features are linear in averages of their outputs.

    Each layer contributes its mean over the clip and the mean size of its change from frame to
    frame, the last one also its means over a coarse grid.

    dim: size of the features.
    """

    def __init__(self, dim: int) -> None:
        super().__init__()
        sizes = zip((3, *WIDTHS), WIDTHS, strict=False)
        self.convs = nn.ModuleList(
            nn.Conv3d(before, after, 3, stride=(1, 2, 2), padding=1) for before, after in sizes
        )
        pooled = 2 * sum(WIDTHS) + WIDTHS[-1] * GRID[0] * GRID[1] * GRID[2]
        self.norm = nn.LayerNorm(pooled)
        self.head = nn.Linear(pooled, dim)

    def forward(self, video: torch.Tensor) -> torch.Tensor:
        """Return features `b d` of clips `b 3 t h w` with two frames or more."""
        x, pooled = _resized(video), []
        for conv in self.convs:
            x = F.silu(conv(x))
            pooled += [x.mean(dim=(2, 3, 4)), x.diff(dim=2).abs().mean(dim=(2, 3, 4))]
        pooled.append(F.adaptive_avg_pool3d(x, GRID).flatten(1))
        return self.head(self.norm(torch.cat(pooled, dim=1)))


def _resized(video: torch.Tensor) -> torch.Tensor:
    frames = rearrange(video, "b c t h w -> (b t) c h w")
    small = F.interpolate(frames, (SIDE, SIDE), mode="bilinear", antialias=True)
    return rearrange(small, "(b t) c h w -> b c t h w", b=len(video))


class Proxy(FeatureExtractor):
    """A small network that ships with nasvid: nothing to fetch, not comparable with published FVD.

    It was trained on the embedded clips to tell their captions apart and to recognise noise, blur,
    warped, mixed, still and shuffled frames. Its 16 features are uncorrelated, with unit variance,
    on those clips, so that a covariance can be estimated from some fifty clips. Use it to compare
    architectures of one run with each other, and with nothing else.
    """

    @property
    def dim(self) -> int:
        """Numbers of a clip."""
        return DIM

    @property
    def min_frames(self) -> int:
        """Frames that a clip must have: it measures changes between frames."""
        return 2

    @property
    def identity(self) -> str:
        """The checksum of its weights."""
        return f"proxy (sha256 {sha256(WEIGHTS)})"

    @cached_property
    def _net(self) -> ProxyNet:
        with torch.device("meta"):  # draws no random weights
            net = ProxyNet(DIM)
        net.load_state_dict(read_tensors(WEIGHTS, tuple(net.state_dict())), assign=True)
        return net.eval()

    @torch.no_grad()
    def features(self, video: torch.Tensor) -> torch.Tensor:
        """Return features `b 16` of clips of any size."""
        return self._net.to(video.device)(video)
