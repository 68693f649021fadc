"""The objectives that ship: diffusion on a noise schedule, and flow matching."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, get_args

import torch
from diffusers.schedulers.scheduling_ddim import DDIMScheduler
from diffusers.schedulers.scheduling_ddim_cogvideox import CogVideoXDDIMScheduler
from diffusers.schedulers.scheduling_flow_match_euler_discrete import (
    FlowMatchEulerDiscreteScheduler,
)
from einops import rearrange
from pydantic import Field, model_validator

from nasvid.objective import Objective, ObjectiveConfig
from nasvid.shapes import VideoShape

Beta = Annotated[float, Field(gt=0, lt=1)]
BetaSchedule = Literal["linear", "scaled_linear", "squaredcos_cap_v2"]
PREDICTIONS = {"epsilon": "epsilon", "v_prediction": "v"}
"""diffusers' name of what is predicted -> ours."""


class DiffusionConfig(ObjectiveConfig):
    """Options of diffusion."""

    prediction: Literal["epsilon", "v"] = "v"
    """Predict the noise, or v (Salimans and Ho, arXiv 2202.00512)."""
    beta_schedule: BetaSchedule = "scaled_linear"
    """Noise schedule, by diffusers' name."""
    beta_start: Beta = 0.0001
    """Of the schedule: beta of the least noise."""
    beta_end: Beta = 0.02
    """Of the schedule: beta of the most noise."""
    snr_shift_scale: float = Field(default=1.0, ge=0.01, le=100)
    """Divide the signal-to-noise ratio by this, for larger videos, as CogVideoX does."""
    zero_terminal_snr: bool = True
    """Rescale the schedule so that the last timestep is pure noise (arXiv 2305.08891); needs v."""
    min_snr_gamma: Annotated[float, Field(gt=0, le=1e6)] | None = 5.0
    """Weight the loss by clamped signal-to-noise ratio (arXiv 2303.09556); null: equal weights."""

    @model_validator(mode="after")
    def _terminal_snr_needs_v(self) -> DiffusionConfig:
        if self.zero_terminal_snr and self.prediction == "epsilon":
            raise ValueError(
                "zero_terminal_snr needs prediction: v, since pure noise holds no signal; "
                "set zero_terminal_snr: false or prediction: v"
            )
        return self


class Diffusion(Objective[DiffusionConfig]):
    """Epsilon or v prediction on a noise schedule of diffusers, weighted by min-SNR."""

    def __init__(self, config: DiffusionConfig) -> None:
        super().__init__(config)
        self.scheduler = self.make_scheduler()

    @classmethod
    def propose(
        cls, scheduler: Mapping[str, Any], shape: VideoShape, folder: Path | None = None
    ) -> DiffusionConfig | None:
        """Return the prediction and the noise schedule of a scheduler that no folder holds."""
        del shape
        prediction = PREDICTIONS.get(str(scheduler.get("prediction_type")))
        has_schedule = scheduler.get("beta_schedule") in get_args(BetaSchedule)
        is_known = prediction is not None and scheduler.get("trained_betas") is None
        if folder is not None or not has_schedule or not is_known:
            return None
        same = ("beta_schedule", "beta_start", "beta_end", "snr_shift_scale")
        found: dict[str, Any] = {name: scheduler[name] for name in same if name in scheduler}
        zero = prediction == "v" and bool(scheduler.get("rescale_betas_zero_snr"))
        found |= {"prediction": prediction, "zero_terminal_snr": zero}
        return DiffusionConfig(train_timesteps=scheduler["num_train_timesteps"], **found)

    def make_scheduler(self) -> DDIMScheduler | CogVideoXDDIMScheduler:
        """Return DDIM's scheduler (Song et al., arXiv 2010.02502) on the noise schedule."""
        config = self.config
        settings: dict[str, Any] = {
            "num_train_timesteps": config.train_timesteps,
            "beta_schedule": config.beta_schedule,
            "beta_start": config.beta_start,
            "beta_end": config.beta_end,
            "prediction_type": "v_prediction" if config.prediction == "v" else "epsilon",
            "rescale_betas_zero_snr": config.zero_terminal_snr,
            "timestep_spacing": "trailing",
            "clip_sample": False,
        }
        if config.snr_shift_scale == 1:
            return DDIMScheduler(**settings)
        return CogVideoXDDIMScheduler(**settings, snr_shift_scale=config.snr_shift_scale)

    def add_noise(
        self, video: torch.Tensor, noise: torch.Tensor, step: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Return the clips with the schedule's noise at `step`, which is also the timestep."""
        return self.scheduler.add_noise(video, noise, step), step  # pyright: ignore[reportArgumentType]

    def target(self, video: torch.Tensor, noise: torch.Tensor, step: torch.Tensor) -> torch.Tensor:
        """Return the noise, or v, with the shape of `video`."""
        if self.config.prediction == "epsilon":
            return noise
        return self.scheduler.get_velocity(video, noise, step)  # pyright: ignore[reportArgumentType]

    def weight(self, step: torch.Tensor) -> torch.Tensor:
        """Min-SNR weight of each timestep; see `min_snr`."""
        if self.config.min_snr_gamma is None:
            return super().weight(step)
        is_v = self.config.prediction == "v"
        weights = min_snr(self.scheduler.alphas_cumprod, self.config.min_snr_gamma, is_v=is_v)
        return weights.to(step.device)[step]


class FlowConfig(ObjectiveConfig):
    """Options of flow."""

    shift: float = Field(default=1.0, ge=0.01, le=100)
    """Shifts timesteps towards noise, for larger videos (arXiv 2403.03206, section 5.3.2)."""


class Flow(Objective[FlowConfig]):
    """Flow matching: the velocity of rectified flow from clip to noise.

    Source: Liu et al., arXiv 2209.03003. At time s in (0, 1] a clip is `(1 - s) video + s noise`,
    and the target is `noise - video`.
    """

    @classmethod
    def propose(
        cls, scheduler: Mapping[str, Any], shape: VideoShape, folder: Path | None = None
    ) -> FlowConfig | None:
        """Return the shift of a flow's scheduler that no folder holds."""
        is_flow = str(scheduler.get("_class_name")).startswith("FlowMatch")
        is_flow = is_flow or scheduler.get("prediction_type") == "flow_prediction"
        if folder is not None or not is_flow:
            return None
        shift = dynamic_shift(scheduler, shape)
        if shift is None:
            shift = scheduler.get("flow_shift", scheduler.get("shift", 1.0))
        return FlowConfig(train_timesteps=scheduler["num_train_timesteps"], shift=shift)

    def make_scheduler(self) -> FlowMatchEulerDiscreteScheduler:
        """Return diffusers' scheduler of Euler steps."""
        return FlowMatchEulerDiscreteScheduler(
            num_train_timesteps=self.config.train_timesteps, shift=self.config.shift
        )

    def add_noise(
        self, video: torch.Tensor, noise: torch.Tensor, step: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Return clips mixed with noise in proportion to time; timesteps are float32."""
        time = self._time(step)
        return torch.lerp(video, noise, _wide(time)), time * self.config.train_timesteps

    def target(self, video: torch.Tensor, noise: torch.Tensor, step: torch.Tensor) -> torch.Tensor:
        """Return the velocity from clip to noise, the same at every time."""
        return noise - video

    def _time(self, step: torch.Tensor) -> torch.Tensor:
        """Return the time of each step, as the scheduler shifts it."""
        return flow_time(step, self.config.train_timesteps, self.config.shift)


def min_snr(alphas: torch.Tensor, gamma: float, *, is_v: bool) -> torch.Tensor:
    """Return the min-SNR weight of each timestep (Hang et al., arXiv 2303.09556, section 3.4).

    min(SNR, gamma) / SNR for noise. For v, min(SNR + 1, gamma) / (SNR + 1): one more than in the
    paper, so that pure noise (SNR 0), where sampling starts, is trained as well. Divided by its
    mean over the schedule, so that the loss keeps its scale.

    alphas: of the schedule, cumulated; float64 on the CPU is used.
    """
    alphas = alphas.to("cpu", torch.float64)
    snr = alphas / (1 - alphas)
    weight = (snr + 1).clamp(max=gamma) / (snr + 1) if is_v else snr.clamp(max=gamma) / snr
    return (weight / weight.mean()).float()


def flow_time(step: torch.Tensor, train_timesteps: int, shift: float) -> torch.Tensor:
    """Return the time of each step, float32 in (0, 1], shifted."""
    even = (step + 1).float() / train_timesteps
    return shift * even / (1 + (shift - 1) * even)


def dynamic_shift(scheduler: Mapping[str, Any], shape: VideoShape) -> float | None:
    """Return the shift of flow for videos of a size, as diffusers' pipelines compute it.

    scheduler: its settings. None if its shift does not depend on the size.
    """
    if not scheduler.get("use_dynamic_shifting"):
        return None
    tokens = shape.frames * shape.height * shape.width
    rise = scheduler["max_shift"] - scheduler["base_shift"]
    span = scheduler["max_image_seq_len"] - scheduler["base_image_seq_len"]
    mu = scheduler["base_shift"] + (tokens - scheduler["base_image_seq_len"]) * rise / span
    shift = mu if scheduler.get("time_shift_type") == "linear" else math.exp(mu)
    return round(shift, 4)


def _wide(values: torch.Tensor) -> torch.Tensor:
    return rearrange(values, "b -> b 1 1 1 1")
