"""What each channel, head and hidden unit of a model is worth, by what held-out clips show."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any

import torch
from torch import nn

from nasvid.evaluator import Context
from nasvid.metrics.importance import first_clips
from nasvid.units import Place, Units

READERS = (nn.Linear, nn.Conv1d, nn.Conv2d, nn.Conv3d)
"""Layers whose inputs lie along dimension 1 of their weight."""
Scores = dict[str, torch.Tensor]
"""Name of a group of units -> the score of each, float64."""


def unit_scores(context: Context, clips: int) -> dict[str, Scores]:
    """Return scores of all interchangeable units: by weights, activations, and gradients.

    weights: the norm of a unit's weights. activations: the squared norms of the weights that read
    it times those of its values (Sun et al., Wanda, arXiv 2306.11695). gradients: by how much the
    loss changes without it, to first order (Molchanov et al., arXiv 1906.10771), the mean over
    clips of its absolute value. The first two are relative to the group's mean.
    """
    net, groups = context.supernet.net, context.supernet.space.interchangeable()
    tensors, readers = net.state_dict(), _readers(net, groups)
    by_weight = {units.name: units.importance(tensors) for units in groups}
    by_gradient = {units.name: torch.zeros(units.count, dtype=torch.float64) for units in groups}
    values: dict[str, torch.Tensor] = {}
    seen = 0
    with _watched(readers, values):
        for batch in first_clips(context, clips if groups else 0):
            for clip in batch.split(1):
                _add_gradients(context, groups, clip, by_gradient)
                seen += 1
    by_value = {units.name: _by_value(units, readers, values) for units in groups}
    by_gradient = {name: score / max(seen, 1) for name, score in by_gradient.items()}
    return {"weights": by_weight, "activations": by_value, "gradients": by_gradient}


def _readers(net: nn.Module, groups: Sequence[Units]) -> dict[str, nn.Module]:
    """Return the layers that read units, by the names of their weights."""
    read = {place.tensor for units in groups for place in units.places if place.dim == 1}
    named = {f"{name}.weight": module for name, module in net.named_modules()}
    found = {name: named[name] for name in read if isinstance(named.get(name), READERS)}
    return {name: m for name, m in found.items() if getattr(m, "groups", 1) == 1}


@contextmanager
def _watched(readers: Mapping[str, nn.Module], values: dict[str, torch.Tensor]) -> Iterator[None]:
    """Sum the squares of what each layer reads, by channel."""

    def keep(name: str, module: nn.Module, inputs: Any) -> None:
        x = inputs[0].detach().float().square()
        dim = -1 if isinstance(module, nn.Linear) else 1
        sums = x.movedim(dim, 0).flatten(1).sum(1, dtype=torch.float64).cpu()
        values[name] = values.get(name, 0) + sums

    hooks = [m.register_forward_pre_hook(partial(keep, name)) for name, m in readers.items()]
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()


def _add_gradients(context: Context, groups: Sequence[Units], clip: Any, sums: Scores) -> None:
    """Add by how much a clip's loss would change, to first order, without each unit."""
    net, space = context.supernet.net, context.supernet.space
    autocast = torch.autocast(
        context.device.type, context.autocast, enabled=context.autocast is not None
    )
    with torch.enable_grad(), autocast:
        loss = context.objective.loss(space.denoise(net, clip.inputs), clip)
    parameters = dict(net.named_parameters())
    names = [name for name, parameter in parameters.items() if parameter.requires_grad]
    found = torch.autograd.grad(loss, [parameters[name] for name in names], allow_unused=True)
    with torch.no_grad():
        change = {
            name: parameters[name] * gradient
            for name, gradient in zip(names, found, strict=True)
            if gradient is not None
        }
        for units in groups:
            read = [place for place in units.places if place.dim == 1 and place.tensor in change]
            parts = [_sums(place, change, units.count) for place in read]
            if parts:
                sums[units.name] += torch.stack(parts).sum(0).abs()


def _by_value(
    units: Units, readers: Mapping[str, nn.Module], values: Mapping[str, torch.Tensor]
) -> torch.Tensor:
    total = torch.zeros(units.count, dtype=torch.float64)
    for place in units.places:
        if place.dim == 1 and place.tensor in values:
            weight = readers[place.tensor].get_parameter("weight").detach()
            squares = weight.double().square().flatten(2).sum(-1) if weight.dim() > 2 else None
            squares = weight.double().square() if squares is None else squares
            sums = _sums(
                Place("each", 0, place.size, place.start),
                {"each": squares.sum(0).cpu() * values[place.tensor]},
                units.count,
            )
            total += sums / sums.mean() if sums.mean() > 0 else 1
    return total


def _sums(place: Place, tensors: Mapping[str, torch.Tensor], count: int) -> torch.Tensor:
    """Return the sum of a tensor's entries over each unit, float64, on the CPU."""
    entries = place.of(tensors, count).movedim(place.dim, 0).flatten(1)
    return entries.sum(1, dtype=torch.float64).cpu()
