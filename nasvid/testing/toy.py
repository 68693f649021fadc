"""A search space whose models run in a millisecond, for testing everything but spaces."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import nn

from nasvid.architecture import Architecture, Choice
from nasvid.costs import Costs
from nasvid.diffusion.sample import VideoSampler
from nasvid.diffusion.text import HashEncoder, HashEncoderConfig
from nasvid.evaluator import CaptionedClips, Context, Guidance
from nasvid.host.display import Display
from nasvid.objective import NoisyBatch, Objective, ObjectiveSection
from nasvid.plugins.config import Config
from nasvid.shapes import Domain, Resolution, VideoShape
from nasvid.space import SearchSpace
from nasvid.supernet import Supernet

SMALL, LARGE = map(Resolution.square, (4, 8))
SHAPES = {
    resolution: VideoShape.square(resolution.height, frames=2, context_len=3)
    for resolution in (SMALL, LARGE)
}
"""Resolution -> shape of a clip."""


class ToyNet(nn.Module):
    """Stem, residual blocks and head; two linear layers add time and text."""

    def __init__(self, domain: Domain, width: int, hidden: dict[str, int]) -> None:
        super().__init__()
        self.stem = nn.Conv3d(domain.channels, width, 1)
        self.text = nn.Linear(domain.context_dim, width)
        self.time = nn.Linear(1, width)
        self.blocks = nn.ModuleDict(
            {
                name: nn.Sequential(nn.Conv3d(width, size, 1), nn.SiLU(), nn.Conv3d(size, width, 1))
                for name, size in hidden.items()
            }
        )
        self.head = nn.Conv3d(width, domain.channels, 1)

    def forward(
        self,
        sample: torch.Tensor,
        timestep: torch.Tensor,
        context: torch.Tensor,
        context_mask: torch.Tensor,
        fps: torch.Tensor,
    ) -> torch.Tensor:
        """Return `b c t h w` from a denoiser's inputs."""
        text = (context * context_mask[..., None]).mean(dim=1)
        told = self.text(text) + self.time(timestep[:, None] * fps[:, None] / 1000)
        x = self.stem(sample) + told[:, :, None, None, None]
        for block in self.blocks.values():
            x = x + block(x)
        return self.head(x)


class ToyConfig(Config):
    """The size of the space: `len(widths) * (1 + len(widths)) ** blocks` architectures."""

    widths: tuple[int, ...] = (2, 4, 8)
    """Widths of the model and of each block, ascending."""
    blocks: int = 3
    """Number of blocks."""


class ToySpace(SearchSpace[ToyConfig]):
    """A width, and blocks that are off or have one of several hidden widths."""

    @classmethod
    def of(cls, **options: Any) -> ToySpace:
        """Make the space from the options of its `Config`."""
        return cls(ToyConfig(**options), Domain(channels=3, context_dim=4))

    def make_choices(self) -> list[Choice]:
        """Return the width, then each block's switch and hidden width."""
        choices = [Choice("width", self.config.widths)]
        for i in range(self.config.blocks):
            choices.append(Choice(f"block.{i}", (False, True)))
            choices.append(Choice(f"block.{i}.hidden", self.config.widths, requires=f"block.{i}"))
        return choices

    def build(self, arch: Architecture) -> ToyNet:
        """Return the model."""
        on = [i for i in range(self.config.blocks) if arch[f"block.{i}"]]
        hidden = {str(i): int(arch[f"block.{i}.hidden"]) for i in on}
        return ToyNet(self.domain, int(arch["width"]), hidden)

    def feature_points(self, arch: Architecture) -> dict[str, str]:
        """Return the blocks that are on."""
        names = [f"blocks.{i}" for i in range(self.config.blocks) if arch[f"block.{i}"]]
        return {name: name for name in names}

    def costs(self, genomes: np.ndarray, shape: VideoShape) -> Costs:
        """Return the costs of n genomes by formula."""
        widths = np.array(self.config.widths)
        width = widths[genomes[:, 0]]
        on = genomes[:, 1::2]
        hidden = (widths[genomes[:, 2::2]] * on).sum(axis=1)
        blocks = on.sum(axis=1)
        c, d = self.domain.channels, self.domain.context_dim
        positions = shape.frames * shape.height * shape.width
        weights = width * (2 * c + 2 * hidden)
        return Costs(
            params=weights + width * (1 + d + 1 + 1 + 1 + blocks) + hidden + c,
            macs=weights * positions + width * (d + 1),
            activation_bytes=4 * (positions * (c + width * (blocks + 1) + 2 * hidden) + d + 1),
        )


def toy_context(space: ToySpace, *, seed: int = 0, batches: Sequence[int] = (2, 1)) -> Context:
    """Return a context for evaluators: an untrained supernet, with noise as clips.

    batches: clips of each batch, at each resolution of `SHAPES`.
    """
    captions = [f"clip {number} of noise" for number in range(sum(batches))]
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        supernet = Supernet(space, space.build(space.largest).eval())
    objective = ObjectiveSection(name="diffusion").make()
    generator = torch.Generator().manual_seed(seed)
    sampler = VideoSampler(
        space=space,
        objective=objective,
        text=partial(_embeddings, space.domain.context_dim),
        vae=None,
        guidance=Guidance(scale=2.0, steps=2),
        fps=8.0,
        seed=seed,
    )

    def clips(resolution: Resolution) -> Iterator[CaptionedClips]:
        shape, own = SHAPES[resolution], torch.Generator().manual_seed(resolution.height)
        size = (shape.frames, shape.height, shape.width)
        video = torch.randn(len(captions), 3, *size, generator=own).clamp(-1, 1)
        yield CaptionedClips(video, captions)

    return Context(
        supernet=supernet,
        shapes=SHAPES,
        batches={
            resolution: [_noise(space, objective, shape, size, generator) for size in batches]
            for resolution, shape in SHAPES.items()
        },
        objective=objective,
        device=torch.device("cpu"),
        text=sampler.text,
        guidance=sampler.guidance,
        fps=sampler.fps,
        captions=captions,
        clips=clips,
        make_videos=sampler.videos,
        track=Display().track,
    )


def _embeddings(
    dim: int, captions: Sequence[str], device: torch.device | str = "cpu"
) -> tuple[torch.Tensor, torch.Tensor]:
    encoder = HashEncoder(HashEncoderConfig(dim=8))
    pairs = [encoder.encode(caption, SHAPES[SMALL].context_len) for caption in captions]
    context = torch.stack([embedding[:, :dim] for embedding, _ in pairs])
    return context.to(device), torch.stack([mask for _, mask in pairs]).to(device)


def _noise(
    space: ToySpace, objective: Objective, shape: VideoShape, size: int, generator: torch.Generator
) -> NoisyBatch:
    def normal(*sizes: int) -> torch.Tensor:
        return torch.randn(*sizes, generator=generator)

    video = (size, space.domain.channels, shape.frames, shape.height, shape.width)
    return objective.corrupt(
        normal(*video).clamp(-1, 1),
        normal(*video),
        torch.randint(1000, (size,), generator=generator),
        normal(size, shape.context_len, space.domain.context_dim),
        torch.ones(size, shape.context_len, dtype=torch.bool),
        torch.full((size,), 8.0),
    )
