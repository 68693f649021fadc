"""What fp16's losses are multiplied by (Micikevicius et al., arXiv 1710.03740, section 3.2)."""

from __future__ import annotations

import torch

from nasvid.training.checkpoint import Progress

GROWS_AFTER = 2000
"""Steps without an overflow after which twice the scale is tried."""


def of(progress: Progress, autocast: torch.dtype | None) -> float:
    """Return the scale of the next step: 1 unless in fp16."""
    return progress.loss_scale if autocast == torch.float16 else 1.0


def adapt(progress: Progress, *, skipped: bool) -> None:
    """Halve the scale after a step that was not finite; double it after long without one."""
    if skipped:
        progress.loss_scale, progress.good = max(progress.loss_scale / 2, 1.0), 0
        return
    progress.good += 1
    if progress.good == GROWS_AFTER:
        progress.loss_scale, progress.good = progress.loss_scale * 2, 0
