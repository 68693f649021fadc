"""One forward pass, watched: which modules run with which inputs, for how long, in what memory."""

from __future__ import annotations

import time
import weakref
from collections import Counter
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, fields, is_dataclass
from typing import Any

import torch
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

END = "(end)"
"""The name of what runs after the last unit."""

Modules = Mapping[str, nn.Module]
"""A model's modules by name, itself included."""


def names_of_calls(modules: Modules, run: Callable[[], object]) -> dict[str, str]:
    """Return each call of a module, in the order they end, and what decides how long it takes.

    run: runs the model once. A call is named for its module; a second call of the same module is
    `NAME#2`. What decides is the kinds, sizes and plain attributes of the module and all below, and
    the shapes of its inputs.
    """
    made, count, calls = {}, Counter(), {}
    names = {module: name for name, module in modules.items()}

    def ended(module: nn.Module, args: Any, kwargs: Any, _: Any) -> None:
        name = names[module]
        calls[_numbered(name, count)] = f"{_made(module, made)}({_form(args)},{_form(kwargs)})"

    hooks = [m.register_forward_hook(ended, with_kwargs=True) for m in names]
    run()
    for hook in hooks:
        hook.remove()
    return calls


def _numbered(name: str, count: Counter[str]) -> str:
    count[name] += 1
    return name if count[name] == 1 else f"{name}#{count[name]}"


def _made(module: nn.Module, known: dict[nn.Module, str]) -> str:
    """Return what a module is made of, as text."""
    if module not in known:
        plain = {key: value for key, value in vars(module).items() if _is_plain(key, value)}
        own = {name: tuple(t.shape) for name, t in _own_tensors(module)}
        parts = [f"{name}:{_made(child, known)}" for name, child in module.named_children()]
        known[module] = f"{type(module).__qualname__}{plain}{own}[{','.join(parts)}]"
    return known[module]


def _is_plain(key: str, value: Any) -> bool:
    plain = (bool, int, float, str)
    is_tuple = isinstance(value, tuple) and all(isinstance(each, plain) for each in value)
    return key != "training" and not key.startswith("_") and (is_tuple or isinstance(value, plain))


def _own_tensors(module: nn.Module) -> Iterator[tuple[str, torch.Tensor]]:
    yield from module.named_parameters(recurse=False)
    yield from module.named_buffers(recurse=False)


def _form(value: Any) -> str:
    """Return the shapes of the tensors in a call's inputs, and its plain values."""
    if isinstance(value, torch.Tensor):
        return f"{value.dtype}{tuple(value.shape)}"
    if isinstance(value, list | tuple):
        return f"({','.join(map(_form, value))})"
    if isinstance(value, dict):
        return f"({','.join(f'{key}={_form(each)}' for key, each in value.items())})"
    if is_dataclass(value):
        return f"({','.join(_form(getattr(value, field.name)) for field in fields(value))})"
    return repr(value) if isinstance(value, bool | int | float | str) else type(value).__name__


def cut(
    modules: Modules,
    names: Collection[str],
    mark: Callable[[str], None],
    *,
    compiled: bool = False,
) -> Callable[[], None]:
    """Make a model call `mark` whenever one of its modules has run, with the name of the call.

    names: of those after which `mark` is called; those that it does not have are left out.
    compiled: compile each of them, which hooks of modules would be compiled into.

    Returns what must be called before each pass.
    """
    count: Counter[str] = Counter()
    for name in names:
        module = modules.get(name)
        if module is None:
            continue

        forward = torch.compile(module.forward) if compiled else module.forward

        def ended(*args: Any, name: str = name, inner: Any = forward, **kwargs: Any) -> Any:
            result = inner(*args, **kwargs)
            mark(_numbered(name, count))
            return result

        module.forward = ended
    return count.clear


class Clock:
    """Times of marks on a device, from the first to the last.

    On a GPU they are events of its stream, so that nothing waits until `read`.
    """

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._marks: list[tuple[str, Any]] = []

    def start(self) -> None:
        """Begin a pass."""
        if self._device.type == "cuda":
            torch.cuda.synchronize(self._device)
        self._marks = []
        self.mark(END)

    def mark(self, name: str) -> None:
        """Note that what is called `name` has just ended."""
        if self._device.type != "cuda":
            self._marks.append((name, time.perf_counter()))
            return
        event = torch.cuda.Event(enable_timing=True)
        event.record(torch.cuda.current_stream(self._device))
        self._marks.append((name, event))

    def read(self) -> dict[str, float]:
        """Return the milliseconds of each part of the pass; together they are those of all."""
        self.mark(END)
        if self._device.type == "cuda":
            torch.cuda.synchronize(self._device)
        pairs = zip(self._marks, self._marks[1:], strict=False)
        return {name: _between(before, after) for (_, before), (name, after) in pairs}


def _between(before: Any, after: Any) -> float:
    if isinstance(before, float):
        return 1e3 * (after - before)
    return before.elapsed_time(after)


@dataclass(frozen=True, slots=True)
class Bytes:
    """Memory of one part of a pass, relative to that in use when it begins.

    peak: the most in use meanwhile. left: in use at its end.
    """

    peak: int
    left: int


class Memory:
    """The memory in use between marks; what is there at the beginning is not counted."""

    def __init__(self) -> None:
        self.parts: dict[str, Bytes] = {}
        self._began = 0

    def mark(self, name: str) -> None:
        """Note that what is called `name` has just ended."""
        peak, now = self._peak_and_now()
        self.parts[name] = Bytes(peak - self._began, now - self._began)
        self._began = now

    def _peak_and_now(self) -> tuple[int, int]:
        """Return the most in use since the last call, and what is in use now."""
        raise NotImplementedError


class CountedMemory(Memory, TorchDispatchMode):
    """The bytes of all tensors that live at the same time; kernels' own workspaces do not count."""

    def __init__(self) -> None:
        Memory.__init__(self)
        TorchDispatchMode.__init__(self)
        self._now = self._peak = 0
        self._known: set[int] = set()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Run an operation and count what it has allocated."""
        kwargs = kwargs or {}
        before = {_storage(each) for each in tree_leaves((args, kwargs)) if _is_tensor(each)}
        result = func(*args, **kwargs)
        for tensor in filter(_is_tensor, tree_leaves(result)):
            place = _storage(tensor)
            if place not in before and place not in self._known:
                self._known.add(place)
                storage = tensor.untyped_storage()
                self._now += storage.nbytes()
                weakref.finalize(storage, self._freed, place, storage.nbytes()).atexit = False
        self._peak = max(self._peak, self._now)
        return result

    def _freed(self, place: int, size: int) -> None:
        self._known.discard(place)
        self._now -= size

    def _peak_and_now(self) -> tuple[int, int]:
        peak, self._peak = self._peak, self._now
        return peak, self._now


def _is_tensor(value: Any) -> bool:
    return isinstance(value, torch.Tensor)


def _storage(tensor: torch.Tensor) -> int:
    return tensor.untyped_storage()._cdata


class DeviceMemory(Memory):
    """What a GPU's allocator has given out, workspaces included."""

    def __init__(self, device: torch.device) -> None:
        super().__init__()
        self._device = device
        torch.cuda.reset_peak_memory_stats(device)
        self._began = torch.cuda.memory_allocated(device)

    def _peak_and_now(self) -> tuple[int, int]:
        peak = torch.cuda.max_memory_allocated(self._device)
        torch.cuda.reset_peak_memory_stats(self._device)
        return peak, torch.cuda.memory_allocated(self._device)


@contextmanager
def memory_of(device: torch.device) -> Iterator[Memory]:
    """Watch the memory of what runs inside: measured on a GPU, counted on a CPU."""
    if device.type == "cuda":
        yield DeviceMemory(device)
        return
    memory = CountedMemory()
    with memory:
        yield memory
