"""From noise to a video, step by step."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch


@torch.no_grad()
def denoised(
    predict: Callable[[torch.Tensor, torch.Tensor], torch.Tensor],
    scheduler: Any,
    noise: torch.Tensor,
    steps: int,
    guidance_scale: float,
) -> torch.Tensor:
    """Denoise `b c t h w` with classifier-free guidance (arXiv 2207.12598); float32.

    predict: of `2b` videos and timesteps, the captioned first, the others without a caption.
    """
    scheduler.set_timesteps(steps, device=noise.device)
    video = noise
    for timestep in scheduler.timesteps:
        both = torch.cat([video, video])
        conditional, unconditional = predict(both, timestep.expand(len(both))).float().chunk(2)
        prediction = unconditional + guidance_scale * (conditional - unconditional)
        video, *_ = scheduler.step(prediction, timestep, video, return_dict=False)
    return video
