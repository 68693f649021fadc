"""From noise to a video, step by step."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

Predict = Callable[[torch.Tensor, torch.Tensor], torch.Tensor]
OnStep = Callable[[int, torch.Tensor, torch.Tensor], torch.Tensor]


@torch.no_grad()
def denoised(
    predict: Predict,
    scheduler: Any,
    noise: torch.Tensor,
    steps: int,
    guidance_scale: float,
    on_step: OnStep | None = None,
) -> torch.Tensor:
    """Denoise `b c t h w` with classifier-free guidance (arXiv 2207.12598); float32.

    predict: of `2b` videos and timesteps, the captioned first, the others without a caption.
    on_step: takes the number of a step, its timestep and its video, and returns the video that the
    next one begins from.
    """
    scheduler.set_timesteps(steps, device=noise.device)
    scaled = getattr(scheduler, "scale_model_input", lambda video, _: video)
    video = noise * getattr(scheduler, "init_noise_sigma", 1.0)
    for number, timestep in enumerate(scheduler.timesteps):
        both = scaled(torch.cat([video, video]), timestep)
        conditional, unconditional = predict(both, timestep.expand(len(both))).float().chunk(2)
        prediction = unconditional + guidance_scale * (conditional - unconditional)
        video, *_ = scheduler.step(prediction, timestep, video, return_dict=False)
        if on_step is not None:
            video = on_step(number, timestep, video)
    return video
