"""Making videos: DDIM, or Euler steps of a flow, with classifier-free guidance."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import nn

from nasvid.diffusion.text import CachedText
from nasvid.objective import Objective
from nasvid.shapes import DenoiserInput, VideoShape
from nasvid.space import SearchSpace


@dataclass(frozen=True, slots=True)
class Guidance:
    """How samples are made.

    scale: strength of classifier-free guidance (Ho and Salimans, arXiv 2207.12598); 1 is none.
    steps: denoising steps, deterministic: of DDIM (Song et al., arXiv 2010.02502), or Euler's for
        flow.
    """

    scale: float = 3.0
    steps: int = 30


@torch.no_grad()
def sample_video(
    space: SearchSpace,
    model: nn.Module,
    objective: Objective,
    text: CachedText,
    prompts: list[str],
    shape: VideoShape,
    *,
    fps: float,
    guidance: Guidance,
    seed: int,
) -> torch.Tensor:
    """Return one denoised video per prompt: `b c t h w`, float32, in pixels or latents.

    shape: as the model sees it.

    The noise is that of (seed, prompt's place, shape), whatever the model: subnets side by side
    start from the same noise.
    """
    device = next(model.parameters()).device
    size = (len(prompts), space.domain.channels, shape.frames, shape.height, shape.width)
    noise = torch.randn(size, generator=torch.Generator().manual_seed(seed))
    context, mask = text([*prompts, *[""] * len(prompts)], device)
    rates = torch.full((2 * len(prompts),), fps, device=device)
    scheduler = objective.make_scheduler()
    scheduler.set_timesteps(guidance.steps, device=device)
    video = noise.to(device)
    for timestep in scheduler.timesteps:
        both = torch.cat([video, video])
        inputs = DenoiserInput(both, timestep.expand(len(both)), context, mask, rates)
        conditional, unconditional = space.denoise(model, inputs).float().chunk(2)
        prediction = unconditional + guidance.scale * (conditional - unconditional)
        video, *_ = scheduler.step(prediction, timestep, video, return_dict=False)
    return video


def to_frames(video: torch.Tensor) -> torch.Tensor:
    """Return `b c t h w` in [-1, 1] as uint8 `b t h w c`."""
    frames = ((video.clamp(-1, 1) + 1) * 127.5).round().to(torch.uint8)
    return frames.permute(0, 2, 3, 4, 1).contiguous().cpu()
