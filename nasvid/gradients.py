"""Gradients of shared parameters of which a step fills slices only."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from nasvid.slices import TensorSlice

KEPT = "_nasvid_kept"
"""The attribute of a parameter that holds its gradient's memory between steps."""


@dataclass(frozen=True, slots=True)
class _Kept:
    """A gradient's memory: zero outside of what was filled."""

    memory: torch.Tensor
    filled: tuple[TensorSlice, ...]

    def clear_for(self, where: TensorSlice) -> torch.Tensor:
        """Return the memory with zeros outside of a slice; inside there may be anything."""
        for filled in self.filled:
            if filled != where and not where.contains(filled):
                torch._foreach_zero_(filled.views(self.memory))  # pyright: ignore[reportPrivateImportUsage]
        return self.memory


def add_gradient(full: torch.Tensor, part: torch.Tensor, where: TensorSlice) -> None:
    """Move a slice's gradient to the shared parameter's, and call that one's hooks.

    full: the shared parameter. part: the slice as a parameter of its own; its `.grad` becomes None.
    """
    own, kept, gradient = part.grad, take_kept(full), full.grad
    assert own is not None
    if gradient is not None:
        where.add_into(gradient, own)
    elif kept is None:
        full.grad = gradient = torch.zeros_like(full)
        where.add_into(gradient, own)
    else:
        full.grad = gradient = kept.clear_for(where)
        where.scatter_into(gradient, own)
    part.grad = None
    hooks = full._post_accumulate_grad_hooks  # pyright: ignore[reportAttributeAccessIssue]
    for hook in tuple(hooks.values()) if hooks else ():
        hook(full)


def keep_gradient(parameter: torch.Tensor, filled: Sequence[TensorSlice]) -> None:
    """Clear a parameter's gradient, but keep its memory for the slices of a later step.

    Then nothing is allocated and only what was filled is cleared. filled: slices outside of which
    the gradient is exactly zero.
    """
    if parameter.grad is not None:
        setattr(parameter, KEPT, _Kept(parameter.grad, tuple(filled)))
        parameter.grad = None


def take_kept(parameter: torch.Tensor) -> _Kept | None:
    """Take what was kept of a parameter, if it fits what the parameter is now."""
    kept: _Kept | None = getattr(parameter, KEPT, None)
    if kept is None:
        return None
    delattr(parameter, KEPT)
    was, now = kept.memory, parameter
    same = (was.shape, was.dtype, was.device) == (now.shape, now.dtype, now.device)
    return kept if same else None
