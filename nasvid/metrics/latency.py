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
from nasvid.evaluator import Context, Evaluator, Metric, Metrics
from nasvid.plugins.config import Config
from nasvid.shapes import Resolution


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
    of their ratios, stays stable while milliseconds drift. `latency_ms` is this ratio times the
    largest's own median, taken once, so that the milliseconds of one table do not contradict each
    other. As a measurement it is not reproducible: a search with it as an objective ends
    differently when resumed, but equally well.
    """

    metrics = (
        Metric("latency_rel", "of the largest's", measured=True, reference=1.0),
        Metric("latency_ms", "ms", measured=True),
    )

    def __init__(self, config: LatencyConfig, context: Context) -> None:
        super().__init__(config, context)
        self._largest: dict[Resolution, float] = {}

    def evaluate(self, architectures: Sequence[Architecture]) -> list[Metrics]:
        """Return `latency_rel`, `latency_ms` and both at every resolution."""
        return [self._one(arch) for arch in architectures]

    def _one(self, arch: Architecture) -> Metrics:
        # Views of wider weights have a different memory layout; time the model that is deployed.
        model = self.context.supernet.extract(arch)
        ratios = {resolution: self._ratio(model, resolution) for resolution in self.context.shapes}
        relative, milliseconds = self.metrics
        return {
            **relative.over(ratios),
            **milliseconds.over(
                {resolution: r * self._largest[resolution] for resolution, r in ratios.items()}
            ),
        }

    def _ratio(self, model: nn.Module, resolution: Resolution) -> float:
        context, shape = self.context, self.context.shapes[resolution]
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
        self._largest.setdefault(resolution, statistics.median(reference for _, reference in pairs))
        return statistics.median(own / reference for own, reference in pairs)
