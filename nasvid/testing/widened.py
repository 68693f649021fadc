"""Widening: a model's units repeated, so that the largest model should compute the same.

It finds what equality of subnets and extracted models cannot: a dimension made of several parts of
which a slice keeps a prefix of the first only. Repeated units give the same means, and their
readers' weights are divided by how often they come, so nothing changes, provided that the entries
of a slice mean the same in both models (Chen et al., Net2Net, arXiv 1511.05641).
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from functools import cached_property
from typing import Any

import torch
from torch import nn
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode

from nasvid.architecture import Architecture, Option
from nasvid.shapes import DenoiserInput
from nasvid.slices import Segments, TensorSlice
from nasvid.space import SearchSpace
from nasvid.supernet import Supernet

READERS = {
    **dict.fromkeys((nn.Linear, nn.Conv1d, nn.Conv2d, nn.Conv3d), 1),
    **dict.fromkeys((nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d), 0),
}
"""Layer -> the dimension of its weight that it sums over."""
FACTORS = (2, 3, 4)
"""How often units come in the largest model."""
SAME = 1e-3
"""How far two predictions may be apart, relative to them, and count as the same."""
PARTS = (2, 3, 4, 6)
"""Numbers of parts of which a dimension may be made that is taken for one."""


def repeats(segments: Segments, size: int, factor: int) -> torch.Tensor | None:
    """Return for each entry of a dimension which of those kept it repeats.

    None if one of the parts is neither kept whole nor `factor` times as long in the largest.
    """
    starts = [start for start, _ in segments]
    found, offset = [], 0
    for (start, stop), following in zip(segments, [*starts[1:], size], strict=True):
        length = stop - start
        if (following - start) not in (length, factor * length):
            return None
        found.append(offset + torch.arange(following - start) % length)
        offset += length
    return torch.cat(found) if starts[:1] == [0] else None


def widen(
    part: torch.Tensor, index: list[torch.Tensor], *, summed: int | None, full: torch.Tensor
) -> None:
    """Write a tensor of a narrow model into that of the largest, its entries repeated.

    index: of each dimension, which entry is repeated. summed: the dimension that the layer sums
    over, so that the sum must remain; None if it sums over none.
    """
    for dim, entries in enumerate(index):
        if dim == summed:
            often = torch.bincount(entries, minlength=part.shape[dim])[entries]
            part = part.index_select(dim, entries) / often.view(-1, *[1] * (part.dim() - dim - 1))
        else:
            part = part.index_select(dim, entries)
    full.copy_(part)


def _narrower(space: SearchSpace, factor: int) -> list[Architecture]:
    """Return the largest architecture with numbers divided by `factor`: all that can be, then each.

    Only one of two numbers whose product is a width may be divided at a time.
    """
    divided: dict[str, Option] = {}
    for choice in space.choices:
        most = choice.options[-1]
        if isinstance(most, int | float) and not isinstance(most, bool):
            smaller = [option for option in choice.options if option == most / factor]
            if smaller:
                divided[choice.name] = smaller[0]
    parts = [divided, *({name: option} for name, option in divided.items())] if divided else []
    return [space.architecture({**space.largest, **part}) for part in parts]


class Widening:
    """The largest model with a narrow one's weights, repeated."""

    def __init__(self, supernet: Supernet, arch: Architecture, factor: int) -> None:
        self.arch = arch
        self._space, self._net = supernet.space, supernet.net
        self._supernet = supernet
        self._factor = factor
        self._slices = supernet.slices(arch)

    @cached_property
    def _model(self) -> nn.Module:
        return self._supernet.extract(self.arch)

    @cached_property
    def _parts(self) -> Mapping[str, torch.Tensor]:
        """The narrow model's tensors by their names in the largest."""
        tensors = self._model.state_dict().items()
        return {self._space.source(self.arch, name): tensor for name, tensor in tensors}

    @classmethod
    def every(cls, supernet: Supernet) -> list[Widening]:
        """Return those of narrow architectures that the largest is a multiple of.

        With all widths divided by a number, or else with one of them.
        """
        found = []
        for factor in FACTORS:
            archs = _narrower(supernet.space, factor)
            for part in (archs[:1], archs[1:]):
                each = [cls(supernet, arch, factor) for arch in part]
                possible = [wide for wide in each if wide.is_possible]
                if possible:
                    found += possible
                    break
        return found

    def _index(self, name: str, slices: TensorSlice) -> list[torch.Tensor] | None:
        """Return which entries are repeated in each dimension, None if that is not possible."""
        shape = self._net.state_dict()[name].shape
        found = [
            repeats(kept, size, self._factor) if size else torch.arange(0)
            for kept, size in zip(slices.dims, shape, strict=True)
        ]
        return None if any(each is None for each in found) else found  # pyright: ignore[reportReturnType]

    @property
    def is_possible(self) -> bool:
        """Whether every tensor of the largest is one of the narrow model's, repeated."""
        return set(self._slices) == set(self._net.state_dict()) and all(
            self._index(name, where) is not None for name, where in self._slices.items()
        )

    @torch.no_grad()
    def _fill(self, changed: Mapping[str, TensorSlice]) -> None:
        tensors = self._net.state_dict()
        summed = {
            f"{name}.weight": dim
            for name, module in self._net.named_modules()
            for layer, dim in READERS.items()
            if isinstance(module, layer)
        }
        for name, where in {**self._slices, **changed}.items():
            index = self._index(name, where)
            assert index is not None
            widen(self._parts[name], index, summed=summed.get(name), full=tensors[name])

    def difference(
        self, inputs: DenoiserInput, changed: Mapping[str, TensorSlice] | None = None
    ) -> float:
        """Return how far the largest's prediction is from the narrow model's, relative to it.

        changed: slices of tensors to take in place of the space's.
        """
        self._fill(changed or {})
        with torch.no_grad(), neutral(self._net), neutral(self._model):
            expected = self._space.denoise(self._model, inputs)
            found = self._space.denoise(self._net, inputs)
        return ((found - expected).norm() / expected.norm()).item()

    def hint(self, inputs: DenoiserInput, left: float) -> str:
        """Return which dimension is probably made of how many parts; empty if it is not clear."""
        least, what = min(self._suspects(inputs), default=(left, ""))
        return f"; taking {what} leaves {least:.1%}" if least < left / 2 else ""

    def _suspects(self, inputs: DenoiserInput) -> Iterator[tuple[float, str]]:
        """Yield tensors and the parts that they may be made of, with the difference then left."""
        for name, where in self._slices.items():
            owner = name.rpartition(".")[0]
            leaves = [each for each in self._slices if each.rpartition(".")[0] == owner]
            for dim, kept in enumerate(where.dims):
                for count in PARTS if len(kept) == 1 else ():
                    changed = {
                        each: cut
                        for each in (leaves if dim == 0 else [name])
                        if (cut := self._cut(each, dim, count)) is not None
                    }
                    if name in changed:
                        left = self.difference(inputs, changed)
                        yield left, f"dimension {dim} of '{name}' as {count} parts"

    def _cut(self, name: str, dim: int, count: int) -> TensorSlice | None:
        """Return a slice that keeps a prefix of each of `count` parts of a dimension."""
        where, size = self._slices[name], self._net.state_dict()[name].shape
        if dim >= len(size):
            return None
        kept = where.dims[dim].length
        if kept == size[dim] or kept % count or size[dim] % count:
            return None
        parts = Segments.prefixes([kept // count] * count, [size[dim] // count] * count)
        return TensorSlice((*where.dims[:dim], parts, *where.dims[dim + 1 :]))


def scatter(net: nn.Module) -> None:
    """Give weights random values that are all different, and small: what no norm tames stays small.

    Otherwise attention would be hard, and rounding would grow from block to block.
    """
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in net.parameters():
            noise = torch.randn(parameter.shape, generator=generator)
            fan = parameter[0].numel() if parameter.dim() > 1 else 4
            parameter.copy_(noise / math.sqrt(max(1, fan)))


def at_start(inputs: DenoiserInput) -> DenoiserInput:
    """Return inputs at timestep 0, of which a sinusoidal embedding of any width is the same."""
    return replace(inputs, timestep=torch.zeros_like(inputs.timestep))


class _NoGroups(TorchFunctionMode):
    """Norms over groups of channels only scale: groups of other sizes have other statistics."""

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        kwargs = kwargs or {}
        if func is F.group_norm:
            return _scaled(*args, **kwargs)
        return func(*args, **kwargs)


def _scaled(
    x: torch.Tensor,
    num_groups: int,
    weight: torch.Tensor | None = None,
    bias: torch.Tensor | None = None,
    eps: float = 0.0,
) -> torch.Tensor:
    del num_groups, eps
    shape = (-1, *[1] * (x.dim() - 2))
    x = x if weight is None else x * weight.view(shape)
    return x if bias is None else x + bias.view(shape)


@contextmanager
def neutral(model: nn.Module) -> Iterator[None]:
    """Run a model without what may depend on its width by more than weights.

    Buffers that no checkpoint holds, such as tables of positions, are 1, and norms over groups do
    not normalise.
    """
    own = [
        (module, name, buffer)
        for module in model.modules()
        for name, buffer in module.named_buffers(recurse=False)
        if name in module._non_persistent_buffers_set and buffer.is_floating_point()
    ]
    for module, name, buffer in own:
        module._buffers[name] = torch.ones_like(buffer)
    try:
        with _NoGroups():
            yield
    finally:
        for module, name, buffer in own:
            module._buffers[name] = buffer
