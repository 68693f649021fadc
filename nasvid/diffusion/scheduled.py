"""The objective that a pipeline's scheduler stands for: its noise, prediction and shift."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from functools import cached_property
from pathlib import Path
from typing import Annotated, Any

import torch
from einops import rearrange
from pydantic import Field

from nasvid.diffusion.objective import dynamic_shift, flow_time, min_snr
from nasvid.errors import UserError
from nasvid.objective import Objective, ObjectiveConfig, Scheduler
from nasvid.plugins.config import ModelPath
from nasvid.shapes import VideoShape

CONFIG = "scheduler_config.json"
PREDICTIONS = ("epsilon", "v_prediction", "flow_prediction")
"""What denoisers predict, by diffusers' names."""


class PretrainedObjectiveConfig(ObjectiveConfig):
    """Options of pretrained."""

    path: ModelPath
    """Local folder of a pipeline, or of a scheduler."""
    shift: Annotated[float, Field(ge=0.01, le=100)] | None = None
    """Of flow matching: how much training prefers noise; null: as the scheduler shifts, at its
    smallest videos if that depends on their size."""
    min_snr_gamma: Annotated[float, Field(gt=0, le=1e6)] | None = None
    """Of a noise schedule: weight the loss by clamped signal-to-noise ratio (arXiv 2303.09556);
    null: equal weights."""


class Pretrained(Objective[PretrainedObjectiveConfig]):
    """What a scheduler of diffusers undoes: flow matching, or noise or v on its noise schedule."""

    @classmethod
    def propose(
        cls, scheduler: Mapping[str, Any], shape: VideoShape, folder: Path | None = None
    ) -> PretrainedObjectiveConfig | None:
        """Return the folder, and the shift for videos of a size where it depends on it."""
        if folder is None or predicted_by(scheduler) not in PREDICTIONS:
            return None
        shift = dynamic_shift(scheduler, shape)
        path = str(folder)
        if shift is None:
            return PretrainedObjectiveConfig(path=path)
        return PretrainedObjectiveConfig(path=path, shift=shift)

    @property
    def train_timesteps(self) -> int:
        """Number of noise levels in training, the scheduler's."""
        return int(self._settings.get("num_train_timesteps", 1000))

    def check_ready(self) -> None:
        """Check the scheduler's folder.

        Raises:
            UserError: it is missing, of an unknown class, or predicts something unknown.
        """
        prediction = predicted(self.make_scheduler())
        if prediction not in PREDICTIONS:
            raise UserError(
                f"{self._folder} predicts '{prediction}', which is none of {', '.join(PREDICTIONS)}"
            )

    def make_scheduler(self) -> Scheduler:
        """Return the folder's scheduler; a shift that depends on the video's size is fixed."""
        given = {"use_dynamic_shifting": False, "shift": self._shift}
        return load_scheduler(self._folder, given if self._is_dynamic else {})

    def add_noise(
        self, video: torch.Tensor, noise: torch.Tensor, step: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Return the noisy clips; of flow, timesteps are float32."""
        if self._is_flow:
            time = flow_time(step, self.train_timesteps, self._shift)
            return torch.lerp(video, noise, _wide(time)), time * self.train_timesteps
        signal, noisy = self._parts(step)
        return signal * video + noisy * noise, step

    def target(self, video: torch.Tensor, noise: torch.Tensor, step: torch.Tensor) -> torch.Tensor:
        """Return the velocity of flow, the noise, or v, with the shape of `video`."""
        if self._is_flow:
            return noise - video
        if self._prediction == "epsilon":
            return noise
        signal, noisy = self._parts(step)
        return signal * noise - noisy * video

    def weight(self, step: torch.Tensor) -> torch.Tensor:
        """Return equal weights, or those of min-SNR on a noise schedule."""
        gamma = self.config.min_snr_gamma
        if gamma is None or self._is_flow:
            return super().weight(step)
        weights = min_snr(self._alphas, gamma, is_v=self._prediction == "v_prediction")
        return weights.to(step.device)[step]

    def _parts(self, step: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Return the factors of clip and noise at a step."""
        alphas = self._alphas.to(step.device)[step]
        return _wide(alphas.sqrt().float()), _wide((1 - alphas).sqrt().float())

    @cached_property
    def _alphas(self) -> torch.Tensor:
        scheduler: Any = self.make_scheduler()
        return scheduler.alphas_cumprod.double()

    @cached_property
    def _prediction(self) -> str:
        return predicted(self.make_scheduler())

    @property
    def _is_flow(self) -> bool:
        return self._prediction == "flow_prediction"

    @property
    def _is_dynamic(self) -> bool:
        return bool(self._settings.get("use_dynamic_shifting"))

    @property
    def _shift(self) -> float:
        if self.config.shift is not None:
            return self.config.shift
        found = self._settings
        if self._is_dynamic:
            return math.exp(found.get("base_shift", 0.5))
        return float(found.get("flow_shift", found.get("shift", 1.0)))

    @property
    def _folder(self) -> Path:
        folder = Path(self.config.path)
        inside = folder / "scheduler"
        return inside if inside.is_dir() else folder

    @cached_property
    def _settings(self) -> dict[str, Any]:
        return read_scheduler(self._folder)


def read_scheduler(folder: Path) -> dict[str, Any]:
    """Return the config of the scheduler in a folder.

    Raises:
        UserError: there is none, or it is no JSON object.
    """
    path = folder / CONFIG
    try:
        found = json.loads(path.read_bytes())
    except (FileNotFoundError, NotADirectoryError):
        raise UserError(f"Scheduler: {folder} has no {CONFIG}") from None
    except ValueError as error:
        raise UserError(f"Scheduler: {path} is not JSON: {error}") from None
    if not isinstance(found, dict):
        raise UserError(f"Scheduler: {path} holds no JSON object")
    return found


def load_scheduler(folder: Path, changed: dict[str, Any] | None = None) -> Any:
    """Return the scheduler in a folder, of the class of diffusers that it names.

    changed: settings that are other than there.

    Raises:
        UserError: there is none, or its class is unknown.
    """
    import diffusers

    config = read_scheduler(folder)
    name = str(config.get("_class_name"))
    cls: Any = getattr(diffusers, name, None)
    if not name.endswith("Scheduler") or cls is None:
        raise UserError(f"Scheduler: {folder} holds a '{name}', which diffusers does not have")
    try:
        return cls.from_config({**config, **(changed or {})})
    except (TypeError, ValueError, NotImplementedError) as error:
        raise UserError(f"Scheduler: no {name} can be made from {folder}: {error}") from error


def predicted(scheduler: Any) -> str:
    """Return what a scheduler takes a denoiser to predict, by diffusers' name."""
    return predicted_by({**scheduler.config, "_class_name": type(scheduler).__name__})


def predicted_by(settings: Mapping[str, Any]) -> str:
    """Return what a scheduler of these settings takes a denoiser to predict."""
    if str(settings.get("_class_name")).startswith("FlowMatch"):
        return "flow_prediction"
    return str(settings.get("prediction_type", "epsilon"))


def undoes(scheduler: Any, other: Any) -> bool:
    """Return whether two schedulers undo the same corruption, perhaps in other steps.

    Flow matching is the same however its timesteps are spaced or shifted; on noise schedules, each
    timestep must have the same noise.
    """
    kind = predicted(scheduler)
    timesteps = [each.config.num_train_timesteps for each in (scheduler, other)]
    if kind != predicted(other) or timesteps[0] != timesteps[1]:
        return False
    if kind == "flow_prediction":
        return True
    ours, theirs = (each.alphas_cumprod.double() for each in (scheduler, other))
    return torch.allclose(ours, theirs, rtol=0, atol=1e-6)


def _wide(values: torch.Tensor) -> torch.Tensor:
    return rearrange(values, "b -> b 1 1 1 1")
