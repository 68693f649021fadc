"""Objective: how clips are corrupted, what a denoiser predicts, and how videos are sampled."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Protocol

import yaml
from pydantic import Field, SerializeAsAny, model_validator
from typing_extensions import TypeVar

from nasvid.plugins import config as settings
from nasvid.plugins.plugin import Plugin
from nasvid.plugins.section import PluginSection
from nasvid.shapes import DenoiserInput, VideoShape

if TYPE_CHECKING:
    import torch


@dataclass(frozen=True, slots=True)
class NoisyBatch:
    """Corrupted clips with the denoiser's targets.

    inputs: of the denoiser.
    target: `b c t h w`; what it should predict.
    weight: `b`; each clip's weight in the loss. step: `b`, int64; each clip's noise level.
    """

    inputs: DenoiserInput
    target: torch.Tensor
    weight: torch.Tensor
    step: torch.Tensor

    def __len__(self) -> int:
        return len(self.target)

    def split(self, size: int | None) -> Iterator[NoisyBatch]:
        """Yield `size` clips at a time; None for all at once."""
        size = len(self) if size is None else size
        for first in range(0, len(self), size):
            part = slice(first, first + size)
            yield NoisyBatch(
                self.inputs.part(part), self.target[part], self.weight[part], self.step[part]
            )


class Scheduler(Protocol):
    """The methods of a diffusers scheduler that sampling and export use."""

    timesteps: Any
    """The timesteps of a sample, noisiest first; a tensor."""

    def set_timesteps(self, num_inference_steps: Any, device: Any = None) -> None:
        """Choose the timesteps of a sample."""
        ...

    def step(self, *args: Any, **kwargs: Any) -> Any:
        """Return the sample one timestep less noisy: `step(prediction, timestep, sample)`."""

    def save_pretrained(self, save_directory: Any) -> None:
        """Write the scheduler's settings to a folder."""
        ...


class ObjectiveConfig(settings.Config):
    """Options that all objectives have; an objective's config derives from it."""

    train_timesteps: int = Field(default=1000, ge=2, le=10**5)
    """Number of noise levels in training."""
    caption_dropout: float = Field(default=0.1, ge=0, le=1)
    """Share of clips trained without caption, for classifier-free guidance."""


C = TypeVar("C", bound=ObjectiveConfig, default=ObjectiveConfig, covariant=True)


class Objective(Plugin[C], ABC):
    """Corrupts clips, defines what a denoiser should predict, and computes the loss.

    A `step` is a clip's noise level: int64 in [0, train_timesteps), 0 the least noisy. Training and
    evaluation draw steps and noise, `corrupt` makes a batch, `loss` compares; videos are sampled
    with the scheduler, which must reverse the same process. Methods are pure: they draw no random
    numbers, and a clip's result does not depend on the other clips in the batch.
    """

    Config: ClassVar[type[settings.Config]] = ObjectiveConfig

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        if not issubclass(cls.Config, ObjectiveConfig):
            raise TypeError(
                f"{cls.Config.__name__} must derive from nasvid.objective's "
                "ObjectiveConfig, as the options of every objective do"
            )

    @classmethod
    def propose(
        cls, scheduler: Mapping[str, Any], shape: VideoShape, folder: Path | None = None
    ) -> C | None:
        """Return options that train what a scheduler samples; None if this objective cannot.

        `nasvid init` asks every objective.

        scheduler: the settings of a pipeline's scheduler, with the defaults of its class, which is
        `_class_name`. shape: of the videos, as the denoiser sees them. folder: of the pipeline, if
        a recipe can name it.
        """
        del scheduler, shape, folder
        return None

    @property
    def train_timesteps(self) -> int:
        """Number of noise levels in training."""
        return self.config.train_timesteps

    @property
    def caption_dropout(self) -> float:
        """Share of clips to train without caption."""
        return self.config.caption_dropout

    @abstractmethod
    def add_noise(
        self, video: torch.Tensor, noise: torch.Tensor, step: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Return the noisy clips, and the timestep that tells the denoiser how noisy they are.

        video: clean clips `b c t h w`, in [-1, 1] or latents. noise: standard normal, with the
        shape of `video`. step: `b`.

        Returns:
            `b c t h w`, and `b`: the scheduler's timestep, int64 or float32.
        """

    @abstractmethod
    def target(self, video: torch.Tensor, noise: torch.Tensor, step: torch.Tensor) -> torch.Tensor:
        """Return the prediction target, with the shape of `video`."""

    @abstractmethod
    def make_scheduler(self) -> Scheduler:
        """Return a new diffusers scheduler that turns pure noise into a clip."""

    def weight(self, step: torch.Tensor) -> torch.Tensor:
        """Return each clip's weight in the loss, `b`, float32; their mean over all steps is 1."""
        import torch

        return torch.ones(len(step), device=step.device)

    def corrupt(
        self,
        video: torch.Tensor,
        noise: torch.Tensor,
        step: torch.Tensor,
        context: torch.Tensor,
        context_mask: torch.Tensor,
        fps: torch.Tensor,
    ) -> NoisyBatch:
        """Return clean clips `b c t h w`, noised to level `step` (`b`), with their conditioning."""
        noisy, timestep = self.add_noise(video, noise, step)
        inputs = DenoiserInput(noisy, timestep, context, context_mask, fps)
        return NoisyBatch(inputs, self.target(video, noise, step), self.weight(step), step)

    def loss(self, prediction: torch.Tensor, batch: NoisyBatch) -> torch.Tensor:
        """Return the weighted mean squared error, a scalar in fp32."""
        from torch.nn import functional as F

        error = F.mse_loss(prediction.float(), batch.target, reduction="none")
        return (error.mean(dim=(1, 2, 3, 4)) * batch.weight).mean()

    def mean_loss(self, video: torch.Tensor, batch: NoisyBatch) -> float:
        """Return the loss of a denoiser that only knows the average clip and predicts it.

        video: the clean clips `b c t h w` of `batch`; their mean over `b` is the average clip.
        """
        average = video.mean(dim=0, keepdim=True).expand_as(video)
        silence = video.new_zeros(video.shape)
        return self.loss(self.target(average, silence, batch.step), batch).item()


class ObjectiveSection(PluginSection):
    """What the denoiser learns: an objective and its config."""

    kind = "objectives"

    config: SerializeAsAny[ObjectiveConfig] = Field(  # pyright: ignore[reportIncompatibleVariableOverride]
        default_factory=ObjectiveConfig
    )

    @model_validator(mode="before")
    @classmethod
    def _is_named(cls, section: Any) -> Any:
        """Reject a section without a name, which is the former syntax."""
        if not isinstance(section, dict) or "name" in section:
            return section
        raise ValueError(f"objective needs a name; write objective: {_named(section)}")

    def make(self) -> Objective:  # pyright: ignore[reportIncompatibleMethodOverride]
        """Create the objective."""
        return super().make()


def _named(section: dict[str, Any]) -> str:
    """Rewrite a section without a name in the current syntax, as one line of YAML."""
    given = dict(section)
    flow = given.get("prediction") == "flow"
    shift = given.pop("flow_shift", None)
    if flow:
        schedule = ("prediction", "beta_schedule", "zero_terminal_snr", "min_snr_gamma")
        given = {key: value for key, value in given.items() if key not in schedule}
        given |= {} if shift is None else {"shift": shift}
    written = {"name": "flow" if flow else "diffusion", **given}
    return yaml.safe_dump(written, default_flow_style=True, sort_keys=False, width=10**6).strip()
