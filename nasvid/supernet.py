"""Supernet: shared weights, and each subnet as a plain module made of views of them."""

from __future__ import annotations

import threading
from collections import OrderedDict
from dataclasses import dataclass

import torch
from torch import nn

from nasvid.architecture import Architecture
from nasvid.slices import TensorSlice
from nasvid.space import SearchSpace

KEPT_SUBNETS = 64
"""Subnet modules kept ready per thread; older ones are made again when asked for."""


@dataclass(slots=True)
class _Installed:
    """One tensor of a subnet and where it comes from."""

    name: str
    owner: nn.Module
    leaf: str
    full: torch.Tensor
    part: torch.Tensor
    where: TensorSlice
    copied_version: int | None

    def is_current(self) -> bool:
        table = self.owner._parameters if self.leaf in self.owner._parameters else None
        now = (table or self.owner._buffers)[self.leaf]
        if now is not self.full or self.full.dtype != self.part.dtype:
            return False
        if self.copied_version is not None:
            return self.full.device == self.part.device
        return self.full.untyped_storage().data_ptr() == self.part.untyped_storage().data_ptr()


class Supernet:
    """The largest network of a space, whose weights all subnets share.

    `net` is `space.build(space.largest)`. `subnet` gives a module of views that is called,
    trained, checkpointed and compiled like any other; `extract` gives the same network with
    weights of its own, equal bit for bit in outputs and gradients.
    """

    def __init__(self, space: SearchSpace, net: nn.Module | None = None) -> None:
        self.space = space
        self.net = space.build(space.largest) if net is None else net
        self._local = threading.local()

    def slices(self, arch: Architecture) -> dict[str, TensorSlice]:
        """Return which part of each shared tensor `arch` uses: parameters and buffers, by name.

        A tensor that is missing belongs to a block that is off.

        Raises:
            ValueError: a tensor of `arch` does not fit the supernet's; the message names it.
        """
        return self._slices(arch, self._skeleton(arch))

    def subnet(self, arch: Architecture) -> nn.Module:
        """Return `arch` as a module whose parameters share the supernet's memory.

        The module is kept per architecture and thread, in the train or eval mode of `net`.
        Gradients are added to the shared parameters' `.grad` during `backward()`, in place and
        only inside the slice; a parameter used whole is the shared parameter itself. A slice of
        several segments cannot be a view: it is a copy, brought up to date before each forward.

        After something has replaced the shared parameters (`net.to(...)`, an engine), an old
        module raises RuntimeError when called: take the subnet again.
        """
        cache: OrderedDict[str, tuple[nn.Module, list[_Installed]]]
        cache = self._local.__dict__.setdefault("cache", OrderedDict())
        module, tensors = cache.get(arch.id, (None, []))
        if module is None or not all(tensor.is_current() for tensor in tensors):
            module, tensors = self._install(arch)
            cache[arch.id] = (module, tensors)
        cache.move_to_end(arch.id)
        while len(cache) > KEPT_SUBNETS:
            cache.popitem(last=False)
        return module.train(self.net.training)

    def extract(self, arch: Architecture) -> nn.Module:
        """Return `arch` as a plain module with its own copy of the weights, in `net`'s mode."""
        module = self._skeleton(arch)
        for name, where in self._slices(arch, module).items():
            owner, leaf = _locate(module, name)
            full = self._full(name)
            part = where.gather(full.detach())
            if leaf in owner._parameters:
                owner._parameters[leaf] = nn.Parameter(part, requires_grad=full.requires_grad)
            else:
                owner._buffers[leaf] = part
        return module.train(self.net.training)

    def _skeleton(self, arch: Architecture) -> nn.Module:
        with torch.device("meta"):
            return self.space.build(arch)

    def _full(self, name: str) -> torch.Tensor:
        owner, leaf = _locate(self.net, name)
        full = owner._parameters.get(leaf)
        full = owner._buffers.get(leaf) if full is None else full
        if full is None:
            raise ValueError(f"the supernet has no tensor '{name}': build() names it differently")
        return full

    def _slices(self, arch: Architecture, skeleton: nn.Module) -> dict[str, TensorSlice]:
        rules = self.space.slice_rules(arch)
        parts = dict(skeleton.named_parameters(remove_duplicate=False))
        parts |= dict(skeleton.named_buffers(remove_duplicate=False))
        unknown = sorted(set(rules) - set(parts))
        if unknown:
            raise ValueError(f"slice rule for '{unknown[0]}', which {arch.id} does not have")
        return {
            name: TensorSlice.of(name, self._full(name).shape, part.shape, rules.get(name, {}))
            for name, part in parts.items()
        }

    def _install(self, arch: Architecture) -> tuple[nn.Module, list[_Installed]]:
        module = self._skeleton(arch)
        tensors = []
        for name, where in self._slices(arch, module).items():
            full = self._full(name)
            owner, leaf = _locate(module, name)
            part, version = _part(full, where)
            if leaf in owner._parameters:
                owner._parameters[leaf] = part  # pyright: ignore[reportArgumentType]
            else:
                owner._buffers[leaf] = part
            shared_owner, shared_leaf = _locate(self.net, name)
            tensors.append(_Installed(name, shared_owner, shared_leaf, full, part, where, version))
        module.register_forward_pre_hook(lambda *_: _refresh(arch, tensors))
        return module, tensors


def _locate(module: nn.Module, name: str) -> tuple[nn.Module, str]:
    path, _, leaf = name.rpartition(".")
    try:
        return module.get_submodule(path), leaf
    except AttributeError:
        raise ValueError(f"the supernet has no module '{path}', which a subnet has") from None


def _part(full: torch.Tensor, where: TensorSlice) -> tuple[torch.Tensor, int | None]:
    """Return a slice to install, and the version it was copied at if it is a copy."""
    if where.covers(full.shape):
        return full, None
    version = None if where.is_view else full._version
    part = where.view(full.detach()) if where.is_view else where.gather(full.detach())
    if isinstance(full, nn.Parameter):
        part = nn.Parameter(part, requires_grad=full.requires_grad)
        if full.requires_grad:
            part.register_post_accumulate_grad_hook(lambda p: _add_gradient(full, p, where))
    return part, version


def _add_gradient(full: torch.Tensor, part: torch.Tensor, where: TensorSlice) -> None:
    if full.grad is None:
        full.grad = torch.zeros_like(full)
    assert part.grad is not None
    where.add_into(full.grad, part.grad)
    part.grad = None


def _refresh(arch: Architecture, tensors: list[_Installed]) -> None:
    for tensor in tensors:
        if not tensor.is_current():
            raise RuntimeError(
                f"'{tensor.name}' of the supernet was replaced after subnet {arch.id} was taken: "
                "take it again with supernet.subnet(arch)"
            )
        if tensor.copied_version is not None and tensor.copied_version != tensor.full._version:
            with torch.no_grad():
                tensor.where.gather_into(tensor.part, tensor.full)
            tensor.copied_version = tensor.full._version
