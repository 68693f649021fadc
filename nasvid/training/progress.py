"""The progress of training, which a checkpoint stores with the weights."""

from __future__ import annotations

from dataclasses import dataclass

import torch

GROWS_AFTER = 2000
"""Steps without overflow after which the loss scale is doubled."""


@dataclass(slots=True)
class Progress:
    """The progress of training.

    step: the next step. clips: used so far. updates: optimizer steps, without the skipped ones.
    skipped: steps skipped because a loss or gradient was not finite. bad: steps skipped in a row
    until now. loss_scale: factor of losses in fp16. good: steps since the scale was changed.
    """

    step: int = 0
    clips: int = 0
    updates: int = 0
    skipped: int = 0
    bad: int = 0
    loss_scale: float = 2.0**16
    good: int = 0

    def scale(self, autocast: torch.dtype | None) -> float:
        """Return the loss scale of the next step: 1 unless in fp16."""
        return self.loss_scale if autocast == torch.float16 else 1.0

    def advance(self, clips: int, *, skipped: bool) -> None:
        """Count a step, made or skipped."""
        self.step += 1
        self.clips += clips
        self.updates += not skipped
        self.skipped += skipped
        self.bad = self.bad + 1 if skipped else 0
        self._adapt_scale(skipped=skipped)

    def _adapt_scale(self, *, skipped: bool) -> None:
        """Halve the scale after a step that is not finite; double it after `GROWS_AFTER` good ones.

        Source: Micikevicius et al., arXiv 1710.03740, section 3.2.
        """
        if skipped:
            self.loss_scale, self.good = max(self.loss_scale / 2, 1.0), 0
            return
        self.good += 1
        if self.good == GROWS_AFTER:
            self.loss_scale, self.good = self.loss_scale * 2, 0
