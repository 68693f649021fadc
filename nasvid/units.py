"""Sorting a model's interchangeable units by importance, so that slices keep the best ones."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch


@dataclass(frozen=True, slots=True)
class Place:
    """Where units lie in one tensor: consecutively along `dim`, `size` entries each.

    start: index of the first unit's first entry.
    """

    tensor: str
    dim: int
    size: int = 1
    start: int = 0

    def of(self, tensors: Mapping[str, torch.Tensor], count: int) -> torch.Tensor:
        """Return a view of the tensor in which dimension `dim` enumerates the units.

        Raises:
            ValueError: the units do not fit into the tensor.
        """
        tensor = tensors[self.tensor]
        stop = self.start + count * self.size
        if stop > tensor.shape[self.dim]:
            raise ValueError(
                f"{self.tensor}: {count} units of {self.size} starting at {self.start} do not fit "
                f"into the {tensor.shape[self.dim]} entries of dimension {self.dim}"
            )
        part = tensor.narrow(self.dim, self.start, stop - self.start)
        return part.unflatten(self.dim, (count, self.size))


@dataclass(frozen=True, slots=True)
class Units:
    """Parts of the largest architecture that can be permuted without changing what it computes.

    Channels of a residual stream (in groups as large as those of norms and attention), attention
    heads, channels between two layers: `count` of them, permuted at all `places` at once.
    """

    name: str
    count: int
    places: tuple[Place, ...]

    def importance(self, tensors: Mapping[str, torch.Tensor]) -> torch.Tensor:
        """Return each unit's importance, float64: the squared norm of all its weights.

        Each place is scaled to a mean of 1, so that all count equally (group importance by norm:
        Fang et al., DepGraph, arXiv 2301.12900, section 3.3).
        """
        total = torch.zeros(self.count, dtype=torch.float64)
        for place in self.places:
            units = place.of(tensors, self.count).detach().movedim(place.dim, 0)
            squares = units.double().square().flatten(1).sum(1).cpu()
            mean = squares.mean()
            total += squares / mean if mean > 0 else 1
        return total

    def move(self, tensors: Mapping[str, torch.Tensor], order: torch.Tensor) -> None:
        """Move unit `order[i]` to position i in every tensor, in place."""
        for place in self.places:
            units = place.of(tensors, self.count)
            units.copy_(units.index_select(place.dim, order.to(units.device)))


@torch.no_grad()
def reorder(
    tensors: Mapping[str, torch.Tensor],
    groups: Sequence[Units],
    scores: Mapping[str, torch.Tensor] | None = None,
) -> None:
    """Sort the units of every group in place, most important first.

    scores: name of a group -> the importance of each unit; the norm of its weights by default.
    """
    known = scores or {}
    orders = [
        (known[units.name] if units.name in known else units.importance(tensors)).argsort(
            descending=True, stable=True
        )
        for units in groups
    ]
    for units, order in zip(groups, orders, strict=True):
        units.move(tensors, order)
