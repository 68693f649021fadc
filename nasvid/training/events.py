"""What training reports while it runs: typed events, written to `events.jsonl` as JSON."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from nasvid.shapes import Resolution


@dataclass(frozen=True, slots=True, kw_only=True)
class Speed:
    """How fast a step was.

    seconds: of the step itself. waited: seconds of waiting for its clips. flops: of the models on
    all ranks (`nasvid.training.speed`); None if the space has no cost formula. utilization: share
    of the device's peak; None if that is unknown. memory: peak bytes on rank 0.
    """

    seconds: float
    waited: float
    ranks: int
    flops: int | None
    utilization: float | None
    memory: int

    @property
    def total(self) -> float:
        """Seconds of the step and of waiting for its clips."""
        return self.seconds + self.waited

    def to_json(self) -> dict[str, Any]:
        """Return plain values; unknown ones are left out."""
        return {name: value for name, value in asdict(self).items() if value is not None}


@dataclass(frozen=True, slots=True)
class GroupLosses:
    """The mean losses of one group of ranks in a step, by role of the subnet."""

    step: int
    resolution: Resolution
    clips: int
    losses: Mapping[str, float]

    def to_json(self) -> dict[str, Any]:
        """Return plain values."""
        return {**asdict(self), "resolution": self.resolution.to_json()}


@dataclass(frozen=True, slots=True, kw_only=True)
class StepEvent:
    """A training step that was made, or skipped because the loss or a gradient is not finite.

    groups: of ranks. subnets: ids of their architectures. loss: mean over the subnets; None if not
    finite. losses: by role; empty if the loss is not finite. grad_norm: before clipping; None if
    the step was skipped. clips: of all groups.
    """

    step: int
    groups: tuple[GroupLosses, ...]
    subnets: tuple[str, ...]
    loss: float | None
    losses: Mapping[str, float]
    grad_norm: float | None
    learning_rate: float
    clips: int
    skipped: bool
    speed: Speed

    @property
    def resolutions(self) -> tuple[Resolution, ...]:
        """The resolutions of its groups, ascending, each once."""
        return tuple(sorted({group.resolution for group in self.groups}))

    def to_json(self, name: str = "step") -> dict[str, Any]:
        """Return plain values. name: of the event."""
        several = len(self.groups) > 1 and self.loss is not None
        return {
            "event": name,
            "step": self.step,
            **({"groups": [group.to_json() for group in self.groups]} if several else {}),
            "resolution": self.groups[0].resolution.to_json(),  # pyright: ignore[reportGeneralTypeIssues]
            "subnets": list(self.subnets),
            "loss": self.loss,
            "losses": dict(self.losses),
            "grad_norm": self.grad_norm,
            "learning_rate": self.learning_rate,
            "clips": self.clips,
            "skipped": self.skipped,
            **self.speed.to_json(),
        }


@dataclass(frozen=True, slots=True)
class SkipEvent:
    """A sample that could not be used and was replaced by another."""

    key: str
    shard: str
    reason: str

    def to_json(self) -> dict[str, Any]:
        """Return plain values."""
        return {"event": "skip", **asdict(self)}


@dataclass(frozen=True, slots=True)
class ValidationEvent:
    """The held-out loss of a checkpoint's EMA weights."""

    step: int
    loss: float

    def to_json(self) -> dict[str, Any]:
        """Return plain values."""
        return {"event": "validation", "step": self.step, "loss": self.loss}


@dataclass(frozen=True, slots=True)
class CheckpointEvent:
    """A checkpoint that is written.

    step: after which. seconds: from its beginning. paused: those in which training paused for it.
    """

    step: int
    seconds: float
    paused: float

    def to_json(self) -> dict[str, Any]:
        """Return plain values."""
        return {"event": "checkpoint", **asdict(self)}


Event = StepEvent | SkipEvent | ValidationEvent | CheckpointEvent
