"""Sampling videos: DDIM, or Euler steps of a flow, with classifier-free guidance."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from einops import rearrange
from torch import nn

from nasvid.diffusion.carried.denoising import denoised
from nasvid.evaluator import Autoencoder, Guidance, Text
from nasvid.objective import Objective
from nasvid.shapes import DenoiserInput, VideoShape
from nasvid.space import SearchSpace

POSITIONS = 1 << 21
"""Frames x height x width, in the model's input, of the videos denoised together; limits memory:
2 videos of 16 frames at 256 pixels, 32 at 64 pixels."""


@dataclass(frozen=True, slots=True, kw_only=True)
class VideoSampler:
    """Samples videos from a space's models.

    vae: decodes latents; None if the models denoise pixels.
    fps: frames per second that the model is conditioned on.
    seed: of the noise.
    """

    space: SearchSpace
    objective: Objective
    text: Text
    vae: Autoencoder | None
    guidance: Guidance
    fps: float
    seed: int

    def videos(
        self, model: nn.Module, prompts: Sequence[str], shape: VideoShape
    ) -> Iterator[torch.Tensor]:
        """Yield one video per prompt, some at a time: `b 3 t h w`, float32, pixels in [-1, 1].

        model: in eval mode. shape: of the model's input.

        The noise of a video depends only on (seed, index of the prompt, shape), not on the model or
        the number of videos, so videos of different models start from the same noise.
        """
        size = (self.space.domain.channels, shape.frames, shape.height, shape.width)
        together = max(1, POSITIONS // (shape.frames * shape.height * shape.width))
        generator = torch.Generator().manual_seed(self.seed)
        for first in range(0, len(prompts), together):
            part = list(prompts[first : first + together])
            noise = torch.stack([torch.randn(size, generator=generator) for _ in part])
            video = self._denoised(model, noise, part)
            yield (video if self.vae is None else self.vae.decode(video)).clamp(-1, 1)

    def _denoised(self, model: nn.Module, noise: torch.Tensor, prompts: list[str]) -> torch.Tensor:
        """Denoise `b c t h w` noise; return float32."""
        device = next(model.parameters()).device
        context, mask = self.text([*prompts, *[""] * len(prompts)], device)
        rates = torch.full((2 * len(prompts),), self.fps, device=device)

        def predict(video: torch.Tensor, timestep: torch.Tensor) -> torch.Tensor:
            return self.space.denoise(model, DenoiserInput(video, timestep, context, mask, rates))

        steps, scale = self.guidance.steps, self.guidance.scale
        scheduler = self.objective.make_scheduler()
        return denoised(predict, scheduler, noise.to(device), steps, scale)


def to_frames(video: torch.Tensor) -> torch.Tensor:
    """Return `b c t h w` in [-1, 1] as uint8 `b t h w c`."""
    frames = ((video.clamp(-1, 1) + 1) * 127.5).round().to(torch.uint8)
    return rearrange(frames, "b c t h w -> b t h w c").contiguous().cpu()
