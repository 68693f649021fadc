"""One denoising step as a module of tensors alone, and inputs to trace and check it with."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import nn

from nasvid.shapes import DenoiserInput, Domain, VideoShape
from nasvid.space import SearchSpace


class Inputs(NamedTuple):
    """What a step takes, in this order; see `DenoiserInput`."""

    sample: torch.Tensor
    timestep: torch.Tensor
    context: torch.Tensor
    context_mask: torch.Tensor
    fps: torch.Tensor


class Step(nn.Module):
    """Predicts as a space's model does, from the same tensors whatever its class."""

    def __init__(self, space: SearchSpace, model: nn.Module) -> None:
        super().__init__()
        self.model = model
        self._space = space

    def forward(
        self,
        sample: torch.Tensor,
        timestep: torch.Tensor,
        context: torch.Tensor,
        context_mask: torch.Tensor,
        fps: torch.Tensor,
    ) -> torch.Tensor:
        """Return the prediction, `b c t h w`."""
        given = DenoiserInput(sample, timestep, context, context_mask, fps)
        return self._space.denoise(self.model, given).contiguous()


@dataclass(frozen=True, slots=True)
class Recorded:
    """What inputs of a step look like.

    timesteps: some that the scheduler gives, whose dtype is the step's. fps: of the clips.
    """

    shape: VideoShape
    domain: Domain
    timesteps: torch.Tensor
    fps: float

    def random(self, batch: int, seed: int) -> Inputs:
        """Return inputs for some clips: noise at random timesteps, captions of random length.

        Another seed has other frames per second.
        """
        generator = torch.Generator().manual_seed(seed)
        shape, length = self.shape, self.shape.context_len
        size = (batch, self.domain.channels, shape.frames, shape.height, shape.width)
        times = torch.randint(len(self.timesteps), (batch,), generator=generator)
        real = torch.randint(1, length + 1, (batch, 1), generator=generator)
        mask = torch.arange(length) < real
        if self.domain.pooled_dim:
            mask[:, -1] = True  # of the whole text
        context = torch.randn(batch, length, self.domain.context_dim, generator=generator)
        return Inputs(
            sample=torch.randn(size, generator=generator),
            timestep=self.timesteps[times],
            context=context * mask[..., None],
            context_mask=mask,
            fps=torch.full((batch,), self.fps + seed),
        )
