"""Denoising loss: how well an architecture denoises held-out clips."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import nn

from nasvid.architecture import Architecture
from nasvid.evaluator import Evaluator, Metric, Metrics
from nasvid.shapes import Resolution


class DenoisingLoss(Evaluator):
    """The denoising loss on held-out clips, with common random numbers.

    Every architecture gets the same clips, timesteps and noise, so that differences come only from
    the architectures.
    """

    metrics = (Metric("loss", "weighted mean squared error", reference=1.0),)

    def evaluate(self, architectures: Sequence[Architecture]) -> list[Metrics]:
        """Return `loss` and `loss@R`: the mean over the clips of each resolution."""
        (loss,) = self.metrics
        models = (self.context.supernet.subnet(arch) for arch in architectures)
        resolutions = self.context.shapes
        return [
            loss.over({resolution: self._loss(model, resolution) for resolution in resolutions})
            for model in models
        ]

    def _loss(self, model: nn.Module, resolution: Resolution) -> float:
        context = self.context
        total, clips = torch.zeros((), dtype=torch.float64), 0
        with context.inference():
            for batch in context.batches[resolution]:
                prediction = context.supernet.space.denoise(model, batch.inputs)
                total += context.objective.loss(prediction, batch).double().cpu() * len(prediction)
                clips += len(prediction)
        return float(total) / clips
