"""The updater of engine `deepspeed`. Only this module imports DeepSpeed."""

from __future__ import annotations

import atexit
import functools
import importlib
import logging
import math
import os
import time
import warnings
from collections.abc import Iterator, Sequence
from types import ModuleType
from typing import Any

import torch
import torch.distributed as dist
from torch import nn

from nasvid.distributed.ranks import Ranks, lost_ranks
from nasvid.recipe.sections import TrainingSection
from nasvid.training.engine import Segment, Shard, Updater, make_optimizer

SETTLED = 1.0
"""Seconds after which torch's threads have finished the work of the last step."""


class DeepSpeedUpdater(Updater):
    """DeepSpeed's ZeRO 0, 1 and 2: reduces gradients, partitions the state, gathers the weights.

    DeepSpeed never sees a subnet. It receives twins of the shared parameters, which share their
    memory, and their gradients once per step: of all parameters, zero where no subnet had any, in
    the same order on all ranks. So several backward passes, slices and disabled blocks cannot
    confuse its buckets, no rank waits for a gradient that another does not have, and inactive
    elements have a gradient of exactly zero in every shard, so the optimizer leaves them alone.

    divided: whether ZeRO partitions the state over the ranks. config: DeepSpeed's own.
    """

    def __init__(
        self,
        net: nn.Module,
        settings: TrainingSection,
        ranks: Ranks,
        *,
        divided: bool,
        config: dict[str, Any],
    ) -> None:
        self._ranks, self._parameters = ranks, list(net.parameters())
        self.divided = divided
        self._twins = _Twins(self._parameters)
        self.optimizer = make_optimizer(list(self._twins.parameters()), settings)
        self._engine = _initialize(self._twins, self.optimizer, config, ranks)
        for parameter, twin in zip(self._parameters, self._twins.weights, strict=True):
            parameter.data = twin.data  # ZeRO has moved them into a buffer of its own
        names = [name for name, _ in net.named_parameters()]
        self.shards = list(self._shards(names))

    def _shards(self, names: Sequence[str]) -> Iterator[Shard]:
        if not self.divided:
            yield from map(Shard.whole, names, self._twins.weights)
            return
        (flat,) = self._engine.optimizer.single_partition_of_fp32_groups
        yield Shard(flat, tuple(_segments(names, self._parameters, flat.numel(), self._ranks.rank)))

    def update(self, *, rate: float, whole: bool) -> float:
        """Pass the gradients to DeepSpeed and let it make its step; see `Updater.update`."""
        gradients = [_taken(parameter) for parameter in self._parameters]
        norm = torch.nn.utils.get_total_norm(gradients).item()
        (unusable,) = self._ranks.sum([not math.isfinite(norm)])
        if unusable:
            return math.inf
        # DeepSpeed takes the mean over the ranks, but their shares of the loss must be summed.
        torch._foreach_mul_(gradients, self._ranks.size)  # pyright: ignore[reportPrivateImportUsage]
        self.optimizer.set(lr=rate, whole=whole)
        with lost_ranks():
            loss = self._engine(gradients)
            gradients.clear()  # autograd would copy each of them while another reference exists
            self._engine.backward(loss)
            norm = self._reduced_norm()
            self._engine.step()
        return self._engine.get_global_grad_norm().item() if norm is None else norm

    def _reduced_norm(self) -> float | None:
        """Return the norm, which stage 0 does not store; None for the other stages."""
        if self.divided:
            return None
        gradients = [twin.grad for twin in self._twins.weights if twin.grad is not None]
        return torch.nn.utils.get_total_norm(gradients).item()


class _Deliver(torch.autograd.Function):
    """A loss with given gradients, which so reach DeepSpeed through its own backward pass."""

    @staticmethod
    def forward(ctx: Any, gradients: list[torch.Tensor], *weights: torch.Tensor) -> torch.Tensor:
        ctx.gradients = list(gradients)
        return weights[0].new_zeros(())

    @staticmethod
    def backward(ctx: Any, *outputs: torch.Tensor) -> Any:
        gradients, ctx.gradients = ctx.gradients, None
        return None, *gradients


class _Twins(nn.Module):
    """Parameters that share the memory of others, but neither gradients nor hooks."""

    def __init__(self, parameters: Sequence[nn.Parameter]) -> None:
        super().__init__()
        self.weights = nn.ParameterList([nn.Parameter(p.detach()) for p in parameters])

    def forward(self, gradients: list[torch.Tensor]) -> torch.Tensor:
        return _Deliver.apply(gradients, *self.weights)  # pyright: ignore[reportReturnType]


def _initialize(module: nn.Module, optimizer: Any, config: dict[str, Any], ranks: Ranks) -> Any:
    """Return DeepSpeed's engine."""
    deepspeed = _deepspeed()
    if not dist.is_initialized():
        backend = "cpu:gloo,cuda:nccl" if torch.cuda.is_available() else "gloo"
        store = dist.HashStore()  # pyright: ignore[reportPrivateImportUsage]
        dist.init_process_group(backend, store=store, rank=0, world_size=1)
    # DeepSpeed looks for them where a launcher would set them, and otherwise for MPI.
    alone = {"RANK": ranks.rank, "WORLD_SIZE": ranks.size, "LOCAL_RANK": ranks.local}
    for name, value in alone.items():
        os.environ.setdefault(name, str(value))
    warnings.filterwarnings("ignore", "`torch.distributed.*deprecated", FutureWarning)
    engine, *_ = deepspeed.initialize(
        model=module, optimizer=optimizer, config=config, dist_init_required=False
    )
    return engine


@functools.cache
def _deepspeed() -> ModuleType:
    """Import DeepSpeed without its warnings and without compiling anything."""
    logging.disable(logging.WARNING)  # no GPU, or an optimizer that is not its own
    try:
        import deepspeed
        from deepspeed.ops import __compatible_ops__
    finally:
        logging.disable(logging.NOTSET)
    _import_muon()
    logging.getLogger("DeepSpeed").setLevel(logging.ERROR)
    # Otherwise the first start on a CPU spends minutes compiling a shared-memory backend.
    __compatible_ops__["deepspeed_shm_comm"] = False
    # DeepSpeed keeps references to the process groups, so destroying them does not end their
    # threads; one that frees a tensor while the interpreter exits aborts it (PyTorch issue 190489).
    atexit.register(time.sleep, SETTLED)
    return deepspeed


def _import_muon() -> None:
    """Import an optimizer that DeepSpeed only compares others with, without a compiler.

    Its functions are wrapped by `torch.compile`, for which each rank would import the compiler, in
    three seconds.
    """
    compiled = torch.compile
    torch.compile = lambda function=None, **_: function or (lambda each: each)  # pyright: ignore[reportAttributeAccessIssue]
    try:
        importlib.import_module("deepspeed.runtime.zero.muon.muon_optimizer")
    finally:
        torch.compile = compiled


def _taken(parameter: nn.Parameter) -> torch.Tensor:
    """Return a parameter's gradient, or zeros if it has none, and clear it."""
    gradient, parameter.grad = parameter.grad, None
    return torch.zeros_like(parameter) if gradient is None else gradient


def _segments(
    names: Sequence[str], parameters: Sequence[torch.Tensor], size: int, rank: int
) -> Iterator[Segment]:
    """Yield the segments in a rank's part, `size` elements of all parameters flattened in order."""
    begin = rank * size
    first = 0
    for name, parameter in zip(names, parameters, strict=True):
        start, stop = max(begin - first, 0), min(begin + size - first, parameter.numel())
        if start < stop:
            yield Segment(name, start, stop - start, first + start - begin)
        first += parameter.numel()
