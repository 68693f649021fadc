"""The denoising objective: how clips are corrupted and what a prediction is compared with."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from diffusers.schedulers.scheduling_ddim import DDIMScheduler
from torch.nn import functional as F

from nasvid.recipe import ObjectiveSection
from nasvid.video import DenoiserInput


@dataclass(frozen=True, slots=True)
class NoisyBatch:
    """Corrupted clips with what a denoiser should say of them.

    inputs: what the denoiser sees.
    target: `b c t h w`; the noise, or v.
    weight: `b`; each clip's weight in the loss.
    """

    inputs: DenoiserInput
    target: torch.Tensor
    weight: torch.Tensor


class Objective:
    """Epsilon or v prediction on a noise schedule of diffusers, weighted by min-SNR."""

    def __init__(self, config: ObjectiveSection) -> None:
        self.config = config
        self.scheduler = self.make_scheduler()

    def make_scheduler(self) -> DDIMScheduler:
        """Return a scheduler of diffusers with this objective's noise schedule."""
        config = self.config
        return DDIMScheduler(
            num_train_timesteps=config.train_timesteps,
            beta_schedule=config.beta_schedule,
            prediction_type="v_prediction" if config.prediction == "v" else "epsilon",
            rescale_betas_zero_snr=config.zero_terminal_snr,
            timestep_spacing="trailing",
            clip_sample=False,
        )

    def corrupt(
        self,
        video: torch.Tensor,
        noise: torch.Tensor,
        timestep: torch.Tensor,
        context: torch.Tensor,
        context_mask: torch.Tensor,
        fps: torch.Tensor,
    ) -> NoisyBatch:
        """Noise clean clips `b c t h w` in [-1, 1] to `timestep` (`b`, int64)."""
        noisy = self.scheduler.add_noise(video, noise, timestep)  # pyright: ignore[reportArgumentType]
        inputs = DenoiserInput(noisy, timestep, context, context_mask, fps)
        return NoisyBatch(inputs, self.target(video, noise, timestep), self._weight(timestep))

    def target(
        self, video: torch.Tensor, noise: torch.Tensor, timestep: torch.Tensor
    ) -> torch.Tensor:
        """Return what is to be predicted: the noise, or v; shapes as `video`."""
        if self.config.prediction == "epsilon":
            return noise
        return self.scheduler.get_velocity(video, noise, timestep)  # pyright: ignore[reportArgumentType]

    def mean_loss(self, video: torch.Tensor, batch: NoisyBatch) -> float:
        """Return what predicting the mean scores: a denoiser that knows the average clip only.

        video: the clean clips `b c t h w` of `batch`; their mean over `b` is the average clip.
        """
        average = video.mean(dim=0, keepdim=True).expand_as(video)
        silence = torch.zeros_like(video)
        return self.loss(self.target(average, silence, batch.inputs.timestep), batch).item()

    def loss(self, prediction: torch.Tensor, batch: NoisyBatch) -> torch.Tensor:
        """Return the weighted mean squared error, a scalar in fp32."""
        error = F.mse_loss(prediction.float(), batch.target, reduction="none")
        return (error.mean(dim=(1, 2, 3, 4)) * batch.weight).mean()

    def _weight(self, timestep: torch.Tensor) -> torch.Tensor:
        """Min-SNR weight of each timestep (Hang et al., arXiv 2303.09556, section 3.4).

        min(SNR, gamma) / SNR for noise. For v, min(SNR + 1, gamma) / (SNR + 1): one more than in
        the paper, so that pure noise (SNR 0), where sampling starts, is trained as well. Divided by
        its mean over the schedule, so that the loss keeps its scale.
        """
        alphas = self.scheduler.alphas_cumprod.to(timestep.device, torch.float64)
        gamma = self.config.min_snr_gamma
        if gamma is None:
            return torch.ones(len(timestep), device=timestep.device)
        snr = alphas / (1 - alphas)
        if self.config.prediction == "v":
            weight = (snr + 1).clamp(max=gamma) / (snr + 1)
        else:
            weight = snr.clamp(max=gamma) / snr
        return (weight / weight.mean())[timestep].float()
