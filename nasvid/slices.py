"""The part of a shared tensor that a subnet uses: one or more ranges of each dimension."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache

import torch

Range = tuple[int, int]


class Segments(tuple[Range, ...]):
    """A slice rule for one dimension: the `(start, stop)` ranges it keeps, in order.

    A decoder's input `[h, skip]` keeps a prefix of each part:
    `Segments((0, h), (full_h, full_h + skip))`. A centre crop of a kernel is one range.
    """

    __slots__ = ()

    def __new__(cls, *ranges: Range) -> Segments:
        """Make the rule; adjacent ranges are merged."""
        merged: list[Range] = []
        for start, stop in ranges:
            if not 0 <= start < stop:
                raise ValueError(f"range ({start}, {stop}) is empty or negative")
            if merged and merged[-1][1] == start:
                merged[-1] = (merged[-1][0], stop)
            elif merged and merged[-1][1] > start:
                raise ValueError(
                    f"ranges {merged[-1]} and ({start}, {stop}) overlap or are out of order"
                )
            else:
                merged.append((start, stop))
        return super().__new__(cls, merged)

    @classmethod
    def prefixes(cls, kept: Sequence[int], parts: Sequence[int]) -> Segments:
        """Return the rule for parts that lie side by side: the leading `kept[i]` of each.

        For six fused projections: `Segments.prefixes([width] * 6, [full_width] * 6)`.
        """
        starts = itertools.accumulate(parts[:-1], initial=0)
        return cls(*((at, at + count) for at, count in zip(starts, kept, strict=True)))

    @classmethod
    def union(cls, rules: Iterable[Segments]) -> Segments:
        """Return the rule that keeps what any of some rules keeps."""
        merged: list[Range] = []
        for start, stop in sorted(each for rule in rules for each in rule):
            if merged and start <= merged[-1][1]:
                merged[-1] = (merged[-1][0], max(stop, merged[-1][1]))
            else:
                merged.append((start, stop))
        return cls(*merged)

    @property
    def length(self) -> int:
        """Elements kept."""
        return sum(stop - start for start, stop in self)

    def contains(self, other: Segments) -> bool:
        """Whether it keeps all that another rule keeps."""
        return all(any(a <= start and stop <= b for a, b in self) for start, stop in other)


SliceRules = Mapping[str, Mapping[int, Segments]]
"""Parameter name -> dimension -> the ranges kept, where they are not a prefix."""


Block = tuple[tuple[slice, ...], tuple[slice, ...]]
REMEMBERED = 1 << 14
"""Slices whose blocks are remembered: each training step uses those of all its tensors."""


@dataclass(frozen=True, slots=True)
class TensorSlice:
    """The block-sparse index of one tensor: the segments kept of each dimension."""

    dims: tuple[Segments, ...]

    @classmethod
    def of(
        cls, name: str, full: torch.Size, part: torch.Size, rules: Mapping[int, Segments]
    ) -> TensorSlice:
        """Return where a tensor of shape `part` lies in the shared one of shape `full`.

        Raises:
            ValueError: the shapes and the rules do not fit; the message names the tensor.
        """
        if len(full) != len(part):
            raise ValueError(
                f"{name} is {len(part)}-dimensional in the subnet, but {len(full)}-dimensional "
                "in the supernet"
            )
        dims = []
        for dim, (size, kept) in enumerate(zip(full, part, strict=True)):
            segments = rules.get(dim) or (Segments((0, kept)) if kept else Segments())
            if segments.length != kept or (segments and segments[-1][1] > size):
                raise ValueError(
                    f"{name}: dimension {dim} keeps {kept} of {size}, "
                    f"which does not match the slice {list(segments)}"
                )
            dims.append(segments)
        return cls(tuple(dims))

    @classmethod
    def around(cls, slices: Sequence[TensorSlice]) -> TensorSlice:
        """Return the smallest slice that contains some slices of the same tensor."""
        dims = zip(*(each.dims for each in slices), strict=True)
        return cls(tuple(Segments.union(rules) for rules in dims))

    @property
    def is_view(self) -> bool:
        """Whether only one range of each dimension is kept, so that a view can represent it."""
        return all(len(segments) <= 1 for segments in self.dims)

    def covers(self, shape: torch.Size) -> bool:
        """Whether the slice is the whole of a tensor of this shape."""
        return all(segments.length == size for segments, size in zip(self.dims, shape, strict=True))

    def contains(self, other: TensorSlice) -> bool:
        """Whether another slice of the same tensor lies within this one."""
        return all(a.contains(b) for a, b in zip(self.dims, other.dims, strict=True))

    def leads(self, shape: torch.Size) -> bool:
        """Whether the slice is a contiguous prefix of such a tensor's memory."""
        rest = TensorSlice(self.dims[1:])
        first = all(segments[:1] == ((0, segments.length),) for segments in self.dims[:1])
        return first and rest.covers(shape[1:])

    def blocks(self) -> Sequence[Block]:
        """Return (index in the shared tensor, index in the subnet's) of each block kept."""
        return _blocks(self)

    def view(self, full: torch.Tensor) -> torch.Tensor:
        """Return the slice as a view of `full`; `is_view` must hold."""
        return full[self.blocks()[0][0]]

    def views(self, full: torch.Tensor) -> list[torch.Tensor]:
        """Return the blocks that make up the slice, as views of `full`."""
        return [full[source] for source, _ in self.blocks()]

    def gather(self, full: torch.Tensor) -> torch.Tensor:
        """Return the slice as a new contiguous tensor."""
        part = full.new_empty([segments.length for segments in self.dims])
        return self.gather_into(part, full)

    def gather_into(self, part: torch.Tensor, full: torch.Tensor) -> torch.Tensor:
        """Copy the slice of `full` into `part` and return `part`."""
        for source, target in self.blocks():
            part[target].copy_(full[source])
        return part

    def scatter_into(self, full: torch.Tensor, part: torch.Tensor) -> None:
        """Copy `part` to its place in `full`, in place."""
        for target, source in self.blocks():
            full[target].copy_(part[source])

    def add_into(self, full: torch.Tensor, part: torch.Tensor) -> None:
        """Add `part` to its place in `full`, in place."""
        for target, source in self.blocks():
            full[target].add_(part[source])

    def mark(self, mask: torch.Tensor) -> None:
        """Set a boolean mask of the shared tensor's shape to True inside the slice."""
        for target, _ in self.blocks():
            mask[target] = True


@lru_cache(REMEMBERED)
def _blocks(where: TensorSlice) -> Sequence[Block]:
    pairs = []
    for segments in where.dims:
        offsets = itertools.accumulate((b - a for a, b in segments), initial=0)
        pairs.append(
            [(slice(a, b), slice(o, o + b - a)) for (a, b), o in zip(segments, offsets)]  # noqa: B905 (accumulate gives one more)
        )
    return [
        (tuple(full for full, _ in block), tuple(part for _, part in block))
        for block in itertools.product(*pairs)
    ]
