"""The moving average of the shared weights: what is searched, extracted and exported."""

from __future__ import annotations

from collections.abc import Sequence

import torch


class Ema:
    """An exponential moving average of tensors: the shards of an engine.

    The decay rises from 0.1 to `decay` as (1 + n) / (10 + n), so that early averages forget the
    random initialisation. Buffers are not averaged; the net's own are used.
    """

    def __init__(self, live: Sequence[torch.Tensor], decay: float) -> None:
        self.decay = decay
        self._live = [tensor.detach() for tensor in live]
        self.averages = [tensor.clone() for tensor in self._live]

    @torch.no_grad()
    def update(self, updates: int) -> None:
        """Move the averages towards the tensors, after `updates` earlier updates."""
        decay = min(self.decay, (1 + updates) / (10 + updates))
        torch._foreach_lerp_(self.averages, self._live, 1 - decay)  # pyright: ignore[reportPrivateImportUsage]
