"""How much smaller activations are in half precision, counted without computing anything."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch._subclasses.fake_tensor import FakeTensorMode

from nasvid.costs import Saved, dummy_input
from nasvid.errors import UserError
from nasvid.shapes import VideoShape
from nasvid.space import SearchSpace

LEAST = 0.6
"""Bytes of activations under bf16 or fp16 autocast, relative to fp32, at least: on a GPU norms stay
in fp32, which a count for the CPU leaves out. Measured in the elastic UNet: 0.55 to 0.63."""


def half_share(space: SearchSpace, shape: VideoShape) -> float:
    """Return the bytes that the largest architecture keeps for a clip, relative to fp32.

    A transformer such as Wan's computes much in fp32 by itself: 0.71 of its activations remain.
    """
    whole = space.cost(space.largest, "activation_bytes", shape)
    try:
        half = _clip_bytes(space, shape)
    except (RuntimeError, NotImplementedError, UserError):  # it needs values
        return LEAST
    return max(LEAST, half / whole)


@contextmanager
def _quiet() -> Iterator[None]:
    """Keep torch's warnings of kernels back, which are for a model that really runs."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


def _clip_bytes(space: SearchSpace, shape: VideoShape) -> int:
    """Return what one more clip keeps: copies of the weights are kept once."""
    kept = []
    with FakeTensorMode():
        model = space.build(space.largest).train()
        for batch in (1, 2):
            saved = Saved(model)
            inputs = dummy_input(shape, space.domain, batch=batch, device="cpu")
            with torch.autocast("cpu", torch.bfloat16), saved.watched(), _quiet():
                space.denoise(model, inputs)
            kept.append(saved.bytes)
    return kept[1] - kept[0]
