"""What evaluators judge with: the trained supernet and fixed, held-out, already noised clips."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch

from nasvid.objective import NoisyBatch, Objective
from nasvid.shapes import VideoShape
from nasvid.supernet import Supernet


@dataclass(frozen=True, slots=True)
class Context:
    """Everything an evaluator may use; the same for every candidate.

    supernet: in eval mode, with the weights to be judged, on `device`.
    shapes: resolution -> shape of a clip.
    batches: resolution -> held-out clips with their timesteps and noise: the common random
        numbers that make differences the architectures'.
    autocast: dtype of mixed precision, or None.
    """

    supernet: Supernet
    shapes: Mapping[int, VideoShape]
    batches: Mapping[int, Sequence[NoisyBatch]]
    objective: Objective
    device: torch.device
    autocast: torch.dtype | None = None
