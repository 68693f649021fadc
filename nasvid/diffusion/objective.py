"""The denoising objective: how clips are corrupted and what a prediction is compared with."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from diffusers.schedulers.scheduling_ddim import DDIMScheduler
from diffusers.schedulers.scheduling_flow_match_euler_discrete import (
    FlowMatchEulerDiscreteScheduler,
)
from torch.nn import functional as F

from nasvid.recipe.sections import ObjectiveSection
from nasvid.shapes import DenoiserInput


@dataclass(frozen=True, slots=True)
class NoisyBatch:
    """Corrupted clips with what a denoiser should say of them.

    inputs: what the denoiser sees.
    target: `b c t h w`; the noise, v, or flow's velocity.
    weight: `b`; each clip's weight in the loss. step: `b`, int64; how noisy, from 0.
    """

    inputs: DenoiserInput
    target: torch.Tensor
    weight: torch.Tensor
    step: torch.Tensor

    def __len__(self) -> int:
        return len(self.target)

    def split(self, size: int | None) -> Iterator[NoisyBatch]:
        """Yield the clips `size` at a time; None: all at once."""
        size = len(self) if size is None else size
        for first in range(0, len(self), size):
            part = slice(first, first + size)
            yield NoisyBatch(
                self.inputs.part(part), self.target[part], self.weight[part], self.step[part]
            )


Scheduler = DDIMScheduler | FlowMatchEulerDiscreteScheduler


class Objective:
    """Epsilon or v prediction on a noise schedule, weighted by min-SNR; or flow matching.

    Schedules are diffusers' own. Flow matching follows rectified flow (Liu et al., arXiv
    2209.03003): at time s in (0, 1] a clip is `(1 - s) video + s noise`, and `noise - video` is to
    be predicted.
    """

    def __init__(self, config: ObjectiveSection) -> None:
        self.config = config
        self.scheduler = self.make_scheduler()

    def make_scheduler(self) -> Scheduler:
        """Return a scheduler of diffusers with this objective's timesteps."""
        config = self.config
        if config.prediction == "flow":
            return FlowMatchEulerDiscreteScheduler(
                num_train_timesteps=config.train_timesteps, shift=config.flow_shift or 1.0
            )
        return DDIMScheduler(
            num_train_timesteps=config.train_timesteps,
            beta_schedule=config.beta_schedule or "scaled_linear",
            prediction_type="v_prediction" if config.prediction == "v" else "epsilon",
            rescale_betas_zero_snr=config.zero_terminal_snr,
            timestep_spacing="trailing",
            clip_sample=False,
        )

    def corrupt(
        self,
        video: torch.Tensor,
        noise: torch.Tensor,
        step: torch.Tensor,
        context: torch.Tensor,
        context_mask: torch.Tensor,
        fps: torch.Tensor,
    ) -> NoisyBatch:
        """Noise clean clips `b c t h w`, in [-1, 1] or latents, as far as timestep `step` says.

        step: `b`, int64 in [0, train_timesteps): 0 is the least noise.
        """
        if isinstance(self.scheduler, DDIMScheduler):
            timestep = step
            noisy = self.scheduler.add_noise(video, noise, step)  # pyright: ignore[reportArgumentType]
        else:
            sigma = self._sigma(step)
            timestep = sigma * self.config.train_timesteps
            noisy = torch.lerp(video, noise, _wide(sigma))
        inputs = DenoiserInput(noisy, timestep, context, context_mask, fps)
        return NoisyBatch(inputs, self.target(video, noise, step), self._weight(step), step)

    def target(self, video: torch.Tensor, noise: torch.Tensor, step: torch.Tensor) -> torch.Tensor:
        """Return what is to be predicted: the noise, v, or flow's velocity; shapes as `video`."""
        if self.config.prediction == "epsilon":
            return noise
        if isinstance(self.scheduler, DDIMScheduler):
            return self.scheduler.get_velocity(video, noise, step)  # pyright: ignore[reportArgumentType]
        return noise - video

    def _sigma(self, step: torch.Tensor) -> torch.Tensor:
        """Return flow's time of each step, float32 in (0, 1], as its scheduler shifts it."""
        even = (step + 1).float() / self.config.train_timesteps
        shift = self.config.flow_shift or 1.0
        return shift * even / (1 + (shift - 1) * even)

    def mean_loss(self, video: torch.Tensor, batch: NoisyBatch) -> float:
        """Return what predicting the mean scores: a denoiser that knows the average clip only.

        video: the clean clips `b c t h w` of `batch`; their mean over `b` is the average clip.
        """
        average = video.mean(dim=0, keepdim=True).expand_as(video)
        silence = torch.zeros_like(video)
        return self.loss(self.target(average, silence, batch.step), batch).item()

    def loss(self, prediction: torch.Tensor, batch: NoisyBatch) -> torch.Tensor:
        """Return the weighted mean squared error, a scalar in fp32."""
        error = F.mse_loss(prediction.float(), batch.target, reduction="none")
        return (error.mean(dim=(1, 2, 3, 4)) * batch.weight).mean()

    def _weight(self, step: torch.Tensor) -> torch.Tensor:
        """Min-SNR weight of each timestep (Hang et al., arXiv 2303.09556, section 3.4).

        min(SNR, gamma) / SNR for noise. For v, min(SNR + 1, gamma) / (SNR + 1): one more than in
        the paper, so that pure noise (SNR 0), where sampling starts, is trained as well. Divided by
        its mean over the schedule, so that the loss keeps its scale.
        """
        gamma = self.config.min_snr_gamma
        if gamma is None or not isinstance(self.scheduler, DDIMScheduler):
            return torch.ones(len(step), device=step.device)
        alphas = self.scheduler.alphas_cumprod.to(step.device, torch.float64)
        snr = alphas / (1 - alphas)
        if self.config.prediction == "v":
            weight = (snr + 1).clamp(max=gamma) / (snr + 1)
        else:
            weight = snr.clamp(max=gamma) / snr
        return (weight / weight.mean())[step].float()


def _wide(values: torch.Tensor) -> torch.Tensor:
    return values[:, None, None, None, None]
