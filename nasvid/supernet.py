"""Supernet: shared weights, and each subnet as a plain module of views into them."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cache, partial
from typing import Any

import torch
from torch import nn
from torch.overrides import TorchFunctionMode

from nasvid.architecture import Architecture
from nasvid.costs import built_on_meta, without_values
from nasvid.errors import UserError
from nasvid.gradients import add_gradient
from nasvid.host.words import after_colon
from nasvid.slices import TensorSlice
from nasvid.space import SearchSpace
from nasvid.units import reorder as sort_units

KEPT_SUBNETS = 64
"""Subnet modules cached per thread; older ones are rebuilt on request."""

KEPT_COPIES = 0.5
"""Memory for the copies in cached subnets, relative to the supernet's parameters. One subnet takes
0.14 of them on average in the largest recipe's space, 0.25 at most; a step uses two or three, and
rarely those of an earlier step."""

KERNEL_DIMS = 4
"""Weights with at least this many dimensions belong to convolutions, which copy them anyway."""


@dataclass(frozen=True, slots=True)
class _Installed:
    """One tensor of a subnet and where it comes from; name: the supernet's."""

    name: str
    owner: nn.Module
    full: torch.Tensor
    part: torch.Tensor
    where: TensorSlice
    is_copy: bool

    def is_current(self) -> bool:
        full, part = self.full, self.part
        return (
            _tensor(self.owner, self.name.rpartition(".")[2]) is full
            and (full.dtype, full.device) == (part.dtype, part.device)
            and full.requires_grad == part.requires_grad
            and (self.is_copy or _memory(full) == _memory(part))
        )

    def refresh(self) -> None:
        """Bring a copy up to date.

        Every time, because an engine may change weights without changing their version; and through
        `data`, because a forward pass that awaits its backward pass must keep what it saved.
        """
        if self.is_copy:
            self.where.gather_into(self.part.data, self.full.data)


@dataclass(frozen=True, slots=True)
class _Subnet:
    """A cached module, and the size of its copies in bytes."""

    module: nn.Module
    tensors: list[_Installed]
    copied: int
    like: tuple[torch.device, torch.dtype]
    """Device and dtype of its own buffers."""
    used: Mapping[str, TensorSlice]
    """The part that it uses of each shared parameter that is trained."""

    def is_current(self) -> bool:
        return all(tensor.is_current() for tensor in self.tensors)


class Supernet:
    """The largest architecture of a space, whose weights all subnets share.

    `net` is `space.build(space.largest)`. `subnet` returns a module of views that is called,
    trained, checkpointed and compiled like any other; `extract` returns the same architecture as a
    model with its own weights, whose outputs and gradients are the same, bit for bit.
    """

    def __init__(self, space: SearchSpace, net: nn.Module | None = None) -> None:
        self.space = space
        self.net = space.build(space.largest) if net is None else net
        _check_untied(self.net)
        self._local = threading.local()
        self._place = cache(partial(_locate, self.net))

    def slices(self, arch: Architecture) -> dict[str, TensorSlice]:
        """Return which part of each shared tensor `arch` uses: parameters and buffers.

        The names are the supernet's. A missing tensor belongs to a block that is off. Buffers that
        no checkpoint holds (`persistent=False`, for example position tables) are not shared: each
        subnet has its own.

        Raises:
            ValueError: a tensor of `arch` does not match the supernet's; the message names it.
        """
        return dict(self._slices(arch, self._skeleton(arch)).values())

    def subnet(self, arch: Architecture) -> nn.Module:
        """Return `arch` as a module whose parameters share the supernet's memory.

        The module is cached per architecture and thread, in the train or eval mode of `net`.
        Gradients are added to the shared parameters' `.grad` during `backward()`, in place and
        only inside the slice; then the shared parameter's post-accumulate-grad hooks run. A
        parameter used whole is the shared parameter itself; leading rows, and slices of convolution
        kernels, are views. Any other slice is a copy, updated before each forward pass: products
        round differently if a matrix is not contiguous.

        After the shared parameters have been replaced (by `net.to(...)` or an engine), an old
        module raises RuntimeError when called; get the subnet again.
        """
        return self._cached(arch).module.train(self.net.training)

    def used(self, arch: Architecture) -> Mapping[str, TensorSlice]:
        """Return the part that a subnet uses of each shared parameter that is trained, by name.

        As `slices`, but kept with the subnet's module.
        """
        return self._cached(arch).used

    def _cached(self, arch: Architecture) -> _Subnet:
        cached: OrderedDict[str, _Subnet]
        cached = self._local.__dict__.setdefault("cached", OrderedDict())
        kept = cached.get(arch.id)
        if kept is None or kept.like != self._like() or not kept.is_current():
            kept = cached[arch.id] = self._install(arch)
        cached.move_to_end(arch.id)
        self._forget(cached)
        return kept

    def extract(self, arch: Architecture) -> nn.Module:
        """Return `arch` as a model with its own copy of the weights, in `net`'s mode."""
        module = self._skeleton(arch)
        for name, (source, where) in self._slices(arch, module).items():
            full = self._full(source)
            part = where.gather(full.detach())
            if isinstance(full, nn.Parameter):
                part = nn.Parameter(part, requires_grad=full.requires_grad)
            _put(module, name, part)
        return module.train(self.net.training)

    def insert(self, arch: Architecture, model: nn.Module) -> None:
        """Copy a model's weights to where `extract` would take them from."""
        new = model.state_dict()
        for name, (source, where) in self._slices(arch, self._skeleton(arch)).items():
            where.scatter_into(self._full(source).detach(), new[name])

    def load_pretrained(
        self,
        model: nn.Module,
        *,
        reorder: bool = False,
        scores: Mapping[str, torch.Tensor] | None = None,
    ) -> None:
        """Copy the weights of an existing model of the largest architecture.

        reorder: sort its interchangeable channels, heads and units by importance first, so that
        smaller subnets keep the most important ones. What the largest computes does not change.
        scores: group of units -> the importance of each; the norm of its weights by default.

        Raises:
            ValueError: the model's tensors do not match the largest architecture; nothing changes.
        """
        new, own = model.state_dict(), self.net.state_dict()
        _check_same_tensors(new, own)
        self.net.load_state_dict(new)
        if reorder:
            sort_units(self.net.state_dict(), self.space.interchangeable(), scores or {})

    def _forget(self, cached: OrderedDict[str, _Subnet]) -> None:
        """Drop the least recently used subnets if too much is cached."""
        most = KEPT_COPIES * sum(parameter.nbytes for parameter in self.net.parameters())
        copied = sum(kept.copied for kept in cached.values())
        while len(cached) > 1 and (len(cached) > KEPT_SUBNETS or copied > most):
            _, forgotten = cached.popitem(last=False)
            copied -= forgotten.copied

    def _skeleton(self, arch: Architecture) -> nn.Module:
        """Return the architecture's module with its own buffers, but with weights on `meta`."""
        fix = "build() must not compute with the values of weights"
        quiet = torch.random.fork_rng(devices=[])
        with quiet, without_values(fix, own=ValueError), _WeightsOnMeta():
            module = self.space.build(arch)
        device, float_dtype = self._like()
        for name, buffer in _own_buffers(module):
            if buffer.is_meta:
                raise ValueError(
                    f"Buffer '{name}' of {arch.id} has no values: build() makes it with "
                    "torch.empty, which allocates nothing here; compute it from torch.zeros instead"
                )
            dtype = float_dtype if buffer.is_floating_point() else buffer.dtype
            _put(module, name, buffer.to(device, dtype))
        return module

    def _like(self) -> tuple[torch.device, torch.dtype]:
        weight = next(self.net.parameters(), torch.empty(0))
        return weight.device, weight.dtype

    def _full(self, name: str) -> torch.Tensor:
        full = _tensor(*self._place(name))
        if full is None:
            raise _missing(name)
        return full

    def _slices(
        self, arch: Architecture, skeleton: nn.Module
    ) -> dict[str, tuple[str, TensorSlice]]:
        """Return for each tensor of a skeleton the shared one's name, and the part it uses."""
        rules = self.space.slice_rules(arch)
        own = dict(_own_buffers(skeleton))
        parts = dict(skeleton.named_parameters(remove_duplicate=False))
        buffers = skeleton.named_buffers(remove_duplicate=False)
        parts |= {name: buffer for name, buffer in buffers if name not in own}
        unknown = sorted(set(rules) - set(parts))
        if unknown:
            raise ValueError(f"{arch.id} has a slice rule for '{unknown[0]}', but no such tensor")
        found, used = {}, {}
        for name, part in parts.items():
            source = self.space.source(arch, name)
            if source in used:
                raise ValueError(
                    f"'{used[source]}' and '{name}' of {arch.id} are both the supernet's '{source}'"
                )
            used[source] = name
            full = self._full(source).shape
            found[name] = source, TensorSlice.of(name, full, part.shape, rules.get(name, {}))
        return found

    @torch.inference_mode(False)
    def _install(self, arch: Architecture) -> _Subnet:
        """Create the module so that it can be trained even if first used in inference mode."""
        module = self._skeleton(arch)
        tensors = []
        for name, (source, where) in self._slices(arch, module).items():
            full = self._full(source)
            part, is_copy = _part(full, where)
            _put(module, name, part)
            owner, _ = self._place(source)
            tensors.append(_Installed(source, owner, full, part, where, is_copy))
        module.register_forward_pre_hook(lambda *_: _refresh(arch, tensors))
        copied = sum(tensor.part.nbytes for tensor in tensors if tensor.is_copy)
        trained = [tensor for tensor in tensors if tensor.full.requires_grad]
        used = {tensor.name: tensor.where for tensor in trained}
        return _Subnet(module, tensors, copied, self._like(), used)


def check_ends(space: SearchSpace) -> None:
    """Check that the architectures in which each choice has its first option are slices.

    In one of the two, everything that can be off is off, in the other on. Nothing is allocated.

    Raises:
        UserError: a tensor is not a slice of the largest's; the message names it and the choice.
    """
    supernet = Supernet(space, built_on_meta(lambda: space.build(space.largest)))
    firsts = {choice.name: choice.options[0] for choice in space.choices}
    on = {name: True for name, option in firsts.items() if option is False}
    for arch in (space.smallest, space.architecture(firsts | on)):
        try:
            supernet.slices(arch)
        except ValueError as error:
            raise _blamed(supernet, error) from error


def _blamed(supernet: Supernet, error: ValueError) -> UserError:
    """Return the error of the first choice that cannot take its first option on its own."""
    space = supernet.space
    for choice in space.choices:
        option = choice.options[0]
        try:
            supernet.slices(space.architecture(dict(space.largest) | {choice.name: option}))
        except ValueError as own:
            last = choice.options[-1]
            return UserError(
                f"Models with '{choice.name}' {option!r} and {last!r} cannot share weights, so it "
                f"cannot be a choice: {after_colon(str(own))}"
            )
    return UserError(
        f"The smallest architecture is not a slice of the largest: {after_colon(str(error))}"
    )


def _check_same_tensors(new: Mapping[str, torch.Tensor], own: Mapping[str, torch.Tensor]) -> None:
    for name in sorted(own.keys() | new.keys()):
        if name not in new:
            raise ValueError(f"The model lacks tensor '{name}' of the largest architecture")
        if name not in own:
            raise ValueError(
                f"The model has a tensor '{name}', which the largest architecture does not have"
            )
        if new[name].shape != own[name].shape:
            raise ValueError(
                f"'{name}' is {tuple(new[name].shape)} in the model, but {tuple(own[name].shape)} "
                "in the largest architecture"
            )


def _check_untied(net: nn.Module) -> None:
    names: dict[int, str] = {}
    for name, parameter in net.named_parameters(remove_duplicate=False):
        other = names.setdefault(id(parameter), name)
        if other != name:
            raise ValueError(
                f"'{other}' and '{name}' are the same parameter; a supernet must not tie weights, "
                "because they are sliced and extracted by name"
            )


class _WeightsOnMeta(TorchFunctionMode):
    """Allocates nothing for tensors from `torch.empty`, which torch's layers use for weights."""

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        kwargs = dict(kwargs or {})
        if func is torch.empty:
            kwargs["device"] = "meta"
        if _is_fill(func) and getattr(tensor := kwargs.get("tensor"), "is_meta", False):
            return tensor  # there is nothing to fill, and torch takes long to find that out
        return func(*args, **kwargs)


def _is_fill(func: Any) -> bool:
    return getattr(func, "__module__", "") == nn.init.__name__


def _own_buffers(module: nn.Module) -> Iterator[tuple[str, torch.Tensor]]:
    """Yield the buffers that are not in the state dict, by name."""
    for path, owner in module.named_modules():
        for leaf in owner._non_persistent_buffers_set:
            buffer = owner._buffers[leaf]
            if buffer is not None:
                yield f"{path}.{leaf}" if path else leaf, buffer


def _locate(module: nn.Module, name: str) -> tuple[nn.Module, str]:
    path, _, leaf = name.rpartition(".")
    try:
        return module.get_submodule(path), leaf
    except AttributeError:
        raise _missing(name) from None


def _missing(name: str) -> ValueError:
    return ValueError(
        f"The largest architecture has no tensor '{name}', which a smaller one has; a tensor's "
        "name must mean the same in all of them"
    )


def _tensor(owner: nn.Module, leaf: str) -> torch.Tensor | None:
    parameter = owner._parameters.get(leaf)
    return owner._buffers.get(leaf) if parameter is None else parameter


def _put(module: nn.Module, name: str, tensor: torch.Tensor) -> None:
    """Replace a tensor in its module's own dict, where `parameters()` and others find it."""
    owner, leaf = _locate(module, name)
    if leaf in owner._parameters:
        owner._parameters[leaf] = tensor  # pyright: ignore[reportArgumentType]
    else:
        owner._buffers[leaf] = tensor


def _memory(tensor: torch.Tensor) -> int:
    return tensor.untyped_storage().data_ptr()


def _part(full: torch.Tensor, where: TensorSlice) -> tuple[torch.Tensor, bool]:
    """Return a slice to install, and whether it is a copy."""
    if where.covers(full.shape):
        return full, False
    as_view = where.leads(full.shape) or (where.is_view and full.dim() >= KERNEL_DIMS)
    part = where.view(full.detach()) if as_view else where.gather(full.detach())
    if isinstance(full, nn.Parameter):
        part = nn.Parameter(part, requires_grad=full.requires_grad)
        if full.requires_grad:
            part.register_post_accumulate_grad_hook(lambda p: add_gradient(full, p, where))
    return part, not as_view


def _refresh(arch: Architecture, tensors: list[_Installed]) -> None:
    for tensor in tensors:
        if not tensor.is_current():
            raise RuntimeError(
                f"'{tensor.name}' of the supernet was replaced after subnet {arch.id} was made; "
                "get the subnet again with supernet.subnet(arch)"
            )
        tensor.refresh()
