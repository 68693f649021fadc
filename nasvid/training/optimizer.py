"""AdamW that leaves inactive weights and their optimizer state unchanged."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from types import MappingProxyType
from typing import Any

import torch
from torch.optim.adamw import adamw

from nasvid.slices import TensorSlice

CHUNK = 1 << 24
"""Elements updated at a time on a device if some are inactive; bounds the temporary memory."""
HOST_CHUNK = 1 << 16
"""Elements updated at a time on the host: few enough that they stay in a processor's cache."""

Slices = Mapping[torch.Tensor, TensorSlice]
"""Parameter -> a slice outside of which its gradient is exactly zero."""
EVERYWHERE: Slices = MappingProxyType({})


class SparseAdamW(torch.optim.Optimizer):
    """AdamW (Loshchilov and Hutter, arXiv 1711.05101) that updates only the active elements.

    SNED trains a subnet while "the rest is frozen", but plain AdamW also moves weights without a
    gradient, by momentum and weight decay. Here an element is **active** in a step if its gradient
    is not exactly zero, or if the caller says that the step trained the whole net
    (`set(whole=True)`). An inactive element keeps its value, both moments and its age, bit for
    bit. Bias correction uses each element's own age, the number of steps in which it was active,
    so an active element moves exactly as under AdamW on the extracted subnet.

    The rule needs only the gradient, so it works on any shard of a parameter. It differs from a
    rule based on slices in one point: an element inside the slice whose gradient is exactly zero is
    also inactive (unless `whole`) and does not decay.

    State per parameter: `exp_avg` and `exp_avg_sq` of its shape, and `age`: a float32 scalar on the
    CPU while all elements have the same age, otherwise int32 of the parameter's shape.
    """

    def __init__(
        self,
        params: Iterable[torch.Tensor] | Iterable[dict[str, Any]],
        *,
        lr: float,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: float = 0.0,
    ) -> None:
        defaults = {"lr": lr, "betas": betas, "eps": eps, "weight_decay": weight_decay}
        super().__init__(params, {**defaults, "whole": False})
        self._tables: dict[tuple[Any, ...], tuple[torch.Tensor, torch.Tensor]] = {}

    def set(self, *, lr: float | None = None, whole: bool) -> None:
        """Set the learning rate of the next steps, and whether they train the whole supernet.

        whole: the step trained the largest subnet, so every element is active.
        """
        for group in self.param_groups:
            group["whole"] = whole
            if lr is not None:
                group["lr"] = lr

    @torch.no_grad()
    def step(self, closure: None = None) -> None:  # pyright: ignore[reportIncompatibleMethodOverride]
        """Update the active elements of every parameter that has a gradient."""
        del closure
        self._step_if_finite(None, {})

    @torch.no_grad()
    def clipped_step(self, clip_norm: float, within: Slices = EVERYWHERE) -> float:
        """Clip the gradients and make a step if their norm is finite; return the norm.

        The norm is the one before clipping. The host waits for the device only once. within: where
        gradients lie; of these parameters nothing outside is changed, nor read except for the norm.
        """
        params = [param for group in self.param_groups for param in group["params"]]
        gradients = {param: param.grad for param in params if param.grad is not None}
        norm = torch.nn.utils.get_total_norm(gradients.values())
        factor = torch.clamp(clip_norm / (norm + 1e-6), max=1.0)
        if not factor.is_cpu or factor < 1:
            views = [
                view for param in gradients for view in _views(gradients[param], within.get(param))
            ]
            torch._foreach_mul_(views, factor)  # pyright: ignore[reportPrivateImportUsage]
        return self._step_if_finite(norm, within)

    def _step_if_finite(self, norm: torch.Tensor | None, within: Slices) -> float:
        groups = [
            (group, [param for param in group["params"] if param.grad is not None])
            for group in self.param_groups
        ]
        unknown = {
            param: param.grad.all()
            for group, params in groups
            for param in params
            if self._is_even(param) and param not in within and not group["whole"]
        }
        value, *answers = _read(norm, [*unknown.values()])
        if not math.isfinite(value):
            return value
        without_zeros = dict(zip(unknown, answers, strict=True))
        for group, params in groups:
            dense = []
            for param in params:
                if self._is_even(param) and (group["whole"] or without_zeros.get(param)):
                    dense.append(param)
                else:
                    self._update_active(param, group, None if group["whole"] else within.get(param))
            self._update_dense(dense, group)
        return value

    def _is_even(self, param: torch.Tensor) -> bool:
        """Return whether all elements have the same age."""
        state = self.state.get(param)
        return not state or state["age"].dim() == 0

    def _state(self, param: torch.Tensor) -> dict[str, torch.Tensor]:
        state = self.state[param]
        if not state:
            state["exp_avg"] = torch.zeros_like(param)
            state["exp_avg_sq"] = torch.zeros_like(param)
            state["age"] = torch.zeros(())
        return state

    def _update_dense(self, params: list[torch.Tensor], group: dict[str, Any]) -> None:
        if not params:
            return
        states = [self._state(param) for param in params]
        if params[0].is_cpu:
            for param, state in zip(params, states, strict=True):
                age = state["age"].add_(1).item()
                by_age = -group["lr"] / (1 - group["betas"][0] ** age)
                root_scale = (1 - group["betas"][1] ** age) ** 0.5
                for chunk in _chunks(_tensors(param, state), HOST_CHUNK):
                    _move(chunk, group, by_age, root_scale)
            return
        adamw(
            params,
            [param.grad for param in params if param.grad is not None],
            [state["exp_avg"] for state in states],
            [state["exp_avg_sq"] for state in states],
            [],
            [state["age"] for state in states],
            amsgrad=False,
            beta1=group["betas"][0],
            beta2=group["betas"][1],
            lr=group["lr"],
            weight_decay=group["weight_decay"],
            eps=group["eps"],
            maximize=False,
        )

    def _update_active(
        self, param: torch.Tensor, group: dict[str, Any], where: TensorSlice | None
    ) -> None:
        """Update the active elements of a parameter, all of which lie in a slice; None for all."""
        state = self._state(param)
        if state["age"].dim() == 0:
            state["age"] = torch.full_like(param, int(state["age"]), dtype=torch.int32)
        whole = (*_tensors(param, state), state["age"])
        for block in zip(*(_views(tensor, where) for tensor in whole), strict=True):
            for chunk in _chunks(block, HOST_CHUNK if param.is_cpu else CHUNK):
                self._update_chunk(chunk, group)

    def _update_chunk(self, chunk: Sequence[torch.Tensor], group: dict[str, Any]) -> None:
        """Apply AdamW (algorithm 2) to the active elements."""
        *tensors, age = chunk
        param, grad, exp_avg, exp_avg_sq = tensors
        active = None if group["whole"] else grad != 0
        if active is None or (param.is_cpu and active.all()):
            _move(tensors, group, *self._corrections(group, age.add_(1)))
            return
        moved = (param.clone(), grad, exp_avg.clone(), exp_avg_sq.clone())
        _move(moved, group, *self._corrections(group, age.add_(active)))
        for old, new in zip(tensors, moved, strict=True):
            if new is not grad:
                torch.where(active, new, old, out=old)

    def _corrections(
        self, group: dict[str, Any], age: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Return each element's `-lr / (1 - beta1 ** age)` and `sqrt(1 - beta2 ** age)`.

        They are looked up in tables computed in fp64, to match AdamW's own numbers. A table ends
        where the correction reaches 1; the entry for age 0 is never used. On the host, where
        looking is free, a single number stands for elements of the same age.
        """
        key = (group["lr"], *group["betas"], age.device)
        if key not in self._tables:
            ones, twos = (_bias_corrections(beta).to(age.device) for beta in group["betas"])
            self._tables = {key: ((-group["lr"] / ones).float(), twos.sqrt().float())}
        if age.is_cpu:
            youngest, oldest = age.aminmax()
            if youngest == oldest:
                age = oldest
        flat = age.reshape(-1)
        steps, roots = (
            table.index_select(0, flat.clamp(max=len(table) - 1)).view_as(age)
            for table in self._tables[key]
        )
        return steps, roots


def _tensors(param: torch.Tensor, state: dict[str, torch.Tensor]) -> tuple[torch.Tensor, ...]:
    """Return a parameter, its gradient and its two moments."""
    assert param.grad is not None
    return param, param.grad, state["exp_avg"], state["exp_avg_sq"]


def _move(
    tensors: Sequence[torch.Tensor],
    group: dict[str, Any],
    by_age: float | torch.Tensor,
    root_scale: float | torch.Tensor,
) -> None:
    """Update a parameter and its moments in place by its gradient, in AdamW's order of operations.

    by_age: `-lr / (1 - beta1 ** age)`. root_scale: `sqrt(1 - beta2 ** age)`.
    """
    param, grad, exp_avg, exp_avg_sq = tensors
    beta1, beta2 = group["betas"]
    exp_avg.lerp_(grad, 1 - beta1)
    exp_avg_sq.mul_(beta2).addcmul_(grad, grad, value=1 - beta2)
    root = exp_avg_sq.sqrt().div_(root_scale).add_(group["eps"])
    param.mul_(1 - group["lr"] * group["weight_decay"])
    param.add_(exp_avg.mul(by_age).div_(root))


def _views(tensor: torch.Tensor, where: TensorSlice | None) -> list[torch.Tensor]:
    """Return the blocks of a slice as views; None for all of the tensor."""
    return [tensor] if where is None else where.views(tensor)


def _chunks(tensors: Sequence[torch.Tensor], size: int) -> Iterator[tuple[torch.Tensor, ...]]:
    """Yield views of tensors of the same shape, `size` elements of each or one row of it."""
    if all(tensor.is_contiguous() for tensor in tensors):
        yield from zip(*(tensor.view(-1).split(size) for tensor in tensors), strict=True)
        return
    rows = max(1, size // tensors[0][0].numel())
    yield from zip(*(tensor.split(rows) for tensor in tensors), strict=True)


def _bias_corrections(beta: float) -> torch.Tensor:
    """Return `1 - beta ** age` for each age, fp64, up to where it equals 1."""
    ages = torch.arange(2 + math.ceil(37 / -math.log(beta)) if beta else 2, dtype=torch.float64)
    ages[0] = 1
    return 1 - beta**ages


def _read(norm: torch.Tensor | None, checks: Sequence[torch.Tensor]) -> list[float]:
    """Return the norm (0 for None) and the checks as Python numbers, in one transfer."""
    if norm is None:
        return [0.0, *(torch.stack([*checks]).tolist() if checks else [])]
    return torch.stack([norm, *(check.to(norm.dtype) for check in checks)]).tolist()
