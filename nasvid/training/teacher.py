"""What subnets learn from besides the clips: another model's prediction and hidden states."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import torch
from torch import nn
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

from nasvid.recipe.sections import TeacherSection

MASSIVE = 4.0
"""Values further than this many standard deviations from the mean are not compared: a few massive
activations would outweigh all others (Sun et al., arXiv 2402.17762; masked in the same way by
Fang et al., arXiv 2412.01199, section 3.4)."""


@dataclass(frozen=True, slots=True)
class Weights:
    """Weights of the parts of a loss: the objective's own, predictions, hidden states."""

    task: float
    outputs: float
    features: float = 0.0

    @classmethod
    def of(cls, section: TeacherSection) -> Weights:
        """Return the weights of a recipe's section."""
        return cls(section.task, section.outputs, section.features)


@dataclass(frozen=True, slots=True)
class Computed:
    """What a model has computed for some clips.

    prediction: `b c t h w`. features: hidden states by the name of the module in the largest
    architecture; clips or frames first, in the dtype in which they were computed.
    """

    prediction: torch.Tensor
    features: Mapping[str, torch.Tensor] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Teacher:
    """A frozen model of the space's largest architecture, and what is learned from it."""

    net: nn.Module
    weights: Weights


def blend(
    weights: Weights, loss: torch.Tensor, learned: Computed, taught: Computed
) -> torch.Tensor:
    """Return the weighted sum of a subnet's own loss and its differences from a teacher.

    The features' part is the mean of `difference` over the subnet's feature points.
    """
    total = weights.task * loss
    if weights.outputs:
        total = total + weights.outputs * F.mse_loss(
            learned.prediction.float(), taught.prediction.float()
        )
    if weights.features and learned.features:
        found = [
            checkpoint(  # so that only the states themselves are kept
                difference,
                state,
                taught.features[name],
                use_reentrant=False,
                preserve_rng_state=False,
            )
            for name, state in learned.features.items()
        ]
        total = total + weights.features * torch.stack(found).mean()
    return total


def difference(state: torch.Tensor, taught: torch.Tensor) -> torch.Tensor:
    """Return the squared difference of hidden states, relative to the variance of the teacher's.

    state: of a subnet, clips or frames first. It is compared with the leading part of `taught`: a
    narrower subnet has the first of the largest's channels, whose weights it shares. 1 is as far as
    the teacher's mean is from its states, 0 the same. A scalar in fp32: each clip or frame counts
    the same, and massive activations are left out.
    """
    own = taught[tuple(map(slice, state.shape))].float().flatten(1)
    away = own - own.mean(dim=1, keepdim=True)
    usual = away.abs() <= MASSIVE * away.square().mean(dim=1, keepdim=True).sqrt()
    mean = (own * usual).sum(dim=1, keepdim=True) / usual.sum(dim=1, keepdim=True)
    spread = ((own - mean).square() * usual).sum(dim=1)
    error = ((state.float().flatten(1) - own).square() * usual).sum(dim=1)
    return (error / spread.clamp(min=torch.finfo().tiny)).mean()


@contextmanager
def watched(model: nn.Module, names: Iterable[str]) -> Iterator[dict[str, torch.Tensor]]:
    """Give the outputs of a model's modules, by name, for forward passes inside the context.

    Of a module that returns several tensors, the first is its hidden state. The backward pass
    belongs outside: recomputed activations are not given.
    """
    found: dict[str, torch.Tensor] = {}
    handles = [
        model.get_submodule(name).register_forward_hook(partial(_keep, found, name))
        for name in names
    ]
    try:
        yield found
    finally:
        for handle in handles:
            handle.remove()


def _keep(
    found: dict[str, torch.Tensor], name: str, module: nn.Module, inputs: Any, output: Any
) -> None:
    del module, inputs
    found[name] = output if isinstance(output, torch.Tensor) else output[0]
