"""Evaluator: judges architectures; and what the framework judges by itself."""

from __future__ import annotations

import statistics
import time
from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Literal

import numpy as np
from pydantic import Field, PositiveInt

from nasvid.architecture import Architecture
from nasvid.plugins.config import Config
from nasvid.plugins.plugin import C, Plugin
from nasvid.plugins.section import PluginSection
from nasvid.shapes import VideoShape
from nasvid.space import SearchSpace

if TYPE_CHECKING:
    from torch import nn

    from nasvid.search.judge import Context

Metrics = dict[str, float]
"""Flat: name -> value; a metric of one resolution is `name@resolution` (`loss@64`)."""


@dataclass(frozen=True, slots=True)
class Metric:
    """What a metric's numbers mean.

    per_resolution: whether it is given at every resolution beside its mean over them.
    measured: whether two measurements of one architecture may differ.
    reference: the value of a useless network (a minimised metric's, whose ideal is 0), where the
        scale has one: hypervolumes are measured from there.
    """

    name: str
    unit: str
    goal: Literal["minimise", "maximise"] = "minimise"
    per_resolution: bool = True
    measured: bool = False
    reference: float | None = None

    def keys(self, resolutions: Iterable[int]) -> list[str]:
        """Return the names under which an evaluator reports this metric."""
        sides = sorted(resolutions) if self.per_resolution else []
        return [self.name, *(f"{self.name}@{side}" for side in sides)]


class Evaluator(Plugin[C], ABC):
    """Judges architectures of a trained supernet."""

    metrics: ClassVar[tuple[Metric, ...]]
    """What `evaluate` returns: each metric at every resolution (`loss@64`) and, under the bare
    name, its mean over the resolutions; a metric that resolution does not change only the latter.
    """

    def __init__(self, config: C, context: Context) -> None:
        super().__init__(config)
        self.context = context

    @abstractmethod
    def evaluate(self, architectures: Sequence[Architecture]) -> list[Metrics]:
        """Return each architecture's metrics, in order.

        What one architecture scores does not depend on which others are judged, or when.
        """


class EvaluatorSection(PluginSection):
    """An evaluator and its options."""

    kind = "evaluators"

    def make(self, context: Context) -> Evaluator:  # pyright: ignore[reportIncompatibleMethodOverride]
        """Make the evaluator."""
        return super().make(context)


COSTS = (
    Metric("params", "parameters", per_resolution=False),
    Metric("macs", "multiply-accumulates"),
)
"""The metrics that a space knows without running anything."""


def cost_values(
    space: SearchSpace, genomes: np.ndarray, shapes: Mapping[int, VideoShape], key: str
) -> np.ndarray:
    """Return one cost (`params`, `macs`, `macs@64`) of n genomes: float64, shape `(n,)`.

    `macs` is the mean over the resolutions of `shapes`.
    """
    name, _, side = key.partition("@")
    if name == "params":
        return space.costs(genomes, next(iter(shapes.values()))).params.astype(np.float64)
    sides = [int(side)] if side else list(shapes)
    return np.mean([space.costs(genomes, shapes[s])[name] for s in sides], axis=0)


class Cost(Evaluator):
    """Parameters and multiply-accumulates of one forward pass of one clip; nothing is run."""

    metrics = COSTS

    def evaluate(self, architectures: Sequence[Architecture]) -> list[Metrics]:
        """Return `params`, `macs` and `macs@R`."""
        space, shapes = self.context.supernet.space, self.context.shapes
        genomes = np.stack([space.encode(arch) for arch in architectures])
        keys = [key for metric in COSTS for key in metric.keys(shapes)]
        columns = {key: cost_values(space, genomes, shapes, key) for key in keys}
        return [
            {key: float(column[row]) for key, column in columns.items()}
            for row in range(len(architectures))
        ]


class DenoisingLoss(Evaluator):
    """The denoising loss on held-out clips, with common random numbers.

    Every candidate sees the same clips, timesteps and noise, so that differences are the
    architectures' own.
    """

    metrics = (Metric("loss", "weighted mean squared error", reference=1.0),)

    def evaluate(self, architectures: Sequence[Architecture]) -> list[Metrics]:
        """Return `loss` and `loss@R`: the mean over the clips of each resolution."""
        return [self._one(self.context.supernet.subnet(arch)) for arch in architectures]

    def _one(self, model: nn.Module) -> Metrics:
        losses = {f"loss@{side}": self._loss(model, side) for side in self.context.shapes}
        return {"loss": statistics.fmean(losses.values()), **losses}

    def _loss(self, model: nn.Module, side: int) -> float:
        import torch

        context = self.context
        total, clips = torch.zeros((), dtype=torch.float64), 0
        with torch.no_grad(), _autocast(context):
            for batch in context.batches[side]:
                prediction = context.supernet.space.denoise(model, batch.inputs)
                total += context.objective.loss(prediction, batch).double().cpu() * len(prediction)
                clips += len(prediction)
        return float(total) / clips


class LatencyConfig(Config):
    """Options of latency."""

    repeats: PositiveInt = 10
    """Timed forward passes of each; the median counts."""
    warm_up: int = Field(default=2, ge=0)
    """Forward passes before, not timed."""
    batch: PositiveInt = 1
    """Clips of a forward pass."""


class Latency(Evaluator[LatencyConfig]):
    """Wall-clock time of one denoising step, beside the largest subnet's in the same minute.

    Candidate and largest take turns, so that what slows the machine slows both: `latency_rel`, the
    median of their ratios, holds still where milliseconds drift. Measured, so not reproducible: a
    search with it as objective resumes to another, equally good, result.
    """

    metrics = (
        Metric("latency_ms", "ms", measured=True),
        Metric("latency_rel", "of the largest's", measured=True, reference=1.0),
    )

    def evaluate(self, architectures: Sequence[Architecture]) -> list[Metrics]:
        """Return `latency_ms`, `latency_rel` and both at every resolution."""
        return [self._one(arch) for arch in architectures]

    def _one(self, arch: Architecture) -> Metrics:
        # A view of wider weights is not laid out like weights of its own: time what is deployed.
        model = self.context.supernet.extract(arch)
        found: dict[str, list[float]] = {"latency_ms": [], "latency_rel": []}
        metrics: Metrics = {}
        for side, shape in self.context.shapes.items():
            milliseconds, relative = self._measure(model, shape)
            for name, value in (("latency_ms", milliseconds), ("latency_rel", relative)):
                metrics[f"{name}@{side}"] = value
                found[name].append(value)
        return {name: statistics.fmean(values) for name, values in found.items()} | metrics

    def _measure(self, model: nn.Module, shape: VideoShape) -> tuple[float, float]:
        import torch

        from nasvid.costs import dummy_input

        context = self.context
        space, largest = context.supernet.space, context.supernet.net
        inputs = dummy_input(shape, space.domain, batch=self.config.batch, device=context.device)

        def milliseconds(net: nn.Module) -> float:
            start = time.perf_counter()
            space.denoise(net, inputs)
            if context.device.type == "cuda":
                torch.cuda.synchronize(context.device)
            return (time.perf_counter() - start) * 1e3

        rounds = self.config.warm_up + self.config.repeats
        with torch.no_grad(), _autocast(context):
            pairs = [(milliseconds(model), milliseconds(largest)) for _ in range(rounds)]
        pairs = pairs[self.config.warm_up :]
        return (
            statistics.median(own for own, _ in pairs),
            statistics.median(own / reference for own, reference in pairs),
        )


def _autocast(context: Context) -> Any:
    import torch

    if context.autocast is None:
        return nullcontext()
    return torch.autocast(context.device.type, context.autocast)
