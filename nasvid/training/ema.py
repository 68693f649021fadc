"""The moving average of the shared weights: what is searched, extracted and exported."""

from __future__ import annotations

import torch
from torch import nn


class Ema:
    """An exponential moving average of a module's parameters.

    The decay rises from 0.1 to `decay` as (1 + n) / (10 + n), so that early averages do not hold
    the random start. Buffers are not averaged: the module's own are used.
    """

    def __init__(self, module: nn.Module, decay: float) -> None:
        self.decay = decay
        self.weights = {name: p.detach().clone() for name, p in module.named_parameters()}

    @torch.no_grad()
    def update(self, module: nn.Module, updates: int) -> None:
        """Move the average towards the module's parameters; `updates` were made before."""
        decay = min(self.decay, (1 + updates) / (10 + updates))
        live = [p.detach() for _, p in module.named_parameters()]
        averages = list(self.weights.values())
        torch._foreach_lerp_(averages, live, 1 - decay)  # pyright: ignore[reportPrivateImportUsage]
