"""Latency: how fast an architecture is on this device."""

from __future__ import annotations

import statistics
import time
from collections.abc import Sequence

import torch
from pydantic import Field
from torch import nn

from nasvid.architecture import Architecture
from nasvid.costs import dummy_input
from nasvid.evaluator import Evaluator, Metric, Metrics
from nasvid.plugins.config import Config
from nasvid.shapes import VideoShape


class LatencyConfig(Config):
    """Options of latency."""

    repeats: int = Field(default=10, ge=1, le=10**4)
    """Number of timed forward passes; the median is reported."""
    warm_up: int = Field(default=2, ge=0, le=10**4)
    """Number of forward passes before them that are not timed."""
    batch: int = Field(default=1, ge=1, le=4096)
    """Batch size of a forward pass."""


class Latency(Evaluator[LatencyConfig]):
    """Wall-clock time of one denoising step, also relative to the largest architecture's.

    Both are timed alternately, so whatever slows the machine slows both: `latency_rel`, the median
    of their ratios, stays stable while milliseconds drift. As a measurement it is not reproducible:
    a search with it as an objective ends differently when resumed, but equally well.
    """

    metrics = (
        Metric("latency_ms", "ms", measured=True),
        Metric("latency_rel", "of the largest's", measured=True, reference=1.0),
    )

    def evaluate(self, architectures: Sequence[Architecture]) -> list[Metrics]:
        """Return `latency_ms`, `latency_rel` and both at every resolution."""
        return [self._one(arch) for arch in architectures]

    def _one(self, arch: Architecture) -> Metrics:
        # Views of wider weights have a different memory layout; time the model that is deployed.
        model = self.context.supernet.extract(arch)
        pairs = {side: self._measure(model, s) for side, s in self.context.shapes.items()}
        milliseconds, relative = self.metrics
        return {
            **milliseconds.over({side: pair[0] for side, pair in pairs.items()}),
            **relative.over({side: pair[1] for side, pair in pairs.items()}),
        }

    def _measure(self, model: nn.Module, shape: VideoShape) -> tuple[float, float]:
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
        with context.inference():
            pairs = [(milliseconds(model), milliseconds(largest)) for _ in range(rounds)]
        pairs = pairs[self.config.warm_up :]
        return (
            statistics.median(own for own, _ in pairs),
            statistics.median(own / reference for own, reference in pairs),
        )
