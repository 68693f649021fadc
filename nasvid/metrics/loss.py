"""Denoising loss: how well an architecture denoises held-out clips."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import nn

from nasvid.architecture import Architecture
from nasvid.evaluator import Evaluator, Metric, Metrics


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
        sides = self.context.shapes
        return [loss.over({side: self._loss(model, side) for side in sides}) for model in models]

    def _loss(self, model: nn.Module, side: int) -> float:
        context = self.context
        total, clips = torch.zeros((), dtype=torch.float64), 0
        with context.inference():
            for batch in context.batches[side]:
                prediction = context.supernet.space.denoise(model, batch.inputs)
                total += context.objective.loss(prediction, batch).double().cpu() * len(prediction)
                clips += len(prediction)
        return float(total) / clips
