"""Engine `torch`: plain PyTorch, on one process or with data parallelism."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import nn

from nasvid.distributed.ranks import Ranks
from nasvid.gradients import keep_gradient, take_kept
from nasvid.plugins.config import Config
from nasvid.recipe.sections import TrainingSection
from nasvid.slices import TensorSlice
from nasvid.training.engine import Engine, Shard, Updater, Used, make_optimizer
from nasvid.training.engines.summing import BUCKET, GradientSum
from nasvid.training.resources import Resources, Workload, ring_bytes, state_bytes, step_bytes

SENDERS = 2
"""Threads of gloo that each gather a bucket of gradients; NCCL needs no copy of them."""


class TorchConfig(Config):
    """Options of engine `torch`."""

    overlap: bool = True
    """Sum gradients over the ranks while a step's last backward pass still computes others."""


class TorchEngine(Engine[TorchConfig]):
    """Plain PyTorch: one process, or data parallelism with the whole state on each rank."""

    def start(self, net: nn.Module, settings: TrainingSection, ranks: Ranks) -> TorchUpdater:
        """Return the updater of a net's weights; see `Engine.start`."""
        return TorchUpdater(net, settings, ranks, overlap=self.config.overlap)

    def resources(self, work: Workload) -> Resources:
        """Return its needs: the whole state, and the buckets of gradients being sent."""
        sends = work.devices > 1 and not work.cuda
        bucket = min(work.size, SENDERS * 4 * (BUCKET + work.largest_tensor)) if sends else 0
        return Resources(
            optimizer=state_bytes(work.size, work),
            ema=work.size,
            update=max(bucket, step_bytes(work.size, work.largest_tensor, work)),
            host=0,
            sent=ring_bytes(2, work),
        )


class TorchUpdater(Updater):
    """Sums gradients over the ranks once per step, during its last backward pass or after it.

    Only parameters that the step's subnets used have gradients. All ranks train the same subnets,
    so they agree on which; `DistributedDataParallel` would have to search every subnet's graph for
    unused parameters. Of a parameter that subnets use in part, only that part is updated and
    cleared.

    overlap: whether sums begin in the last backward pass.
    """

    divided = False

    def __init__(
        self, net: nn.Module, settings: TrainingSection, ranks: Ranks, *, overlap: bool = True
    ) -> None:
        self._clip_norm = settings.clip_norm
        self._parameters = dict(net.named_parameters())
        self._sum = GradientSum(self._parameters, ranks) if ranks.size > 1 else None
        self._overlap = overlap
        self._filled: dict[torch.Tensor, list[TensorSlice]] = {}
        self._last: list[torch.Tensor] = []
        self.optimizer = make_optimizer(list(self._parameters.values()), settings)
        self.shards = [Shard.whole(name, p) for name, p in net.named_parameters()]

    def begin(self, used: Sequence[Used]) -> None:
        """Note which parameters the step fills only slices of; see `Updater.begin`."""
        self._filled, self._last = {}, [self._parameters[name] for name in used[-1]]
        for name, parameter in self._parameters.items():
            slices = list(dict.fromkeys(each[name] for each in used if name in each))
            if any(where.covers(parameter.shape) for where in slices):
                take_kept(parameter)  # it gets a gradient of its own
            elif slices:
                self._filled[parameter] = slices

    def begin_last_pass(self) -> None:
        """Begin to sum over the ranks; see `Updater.begin_last_pass`."""
        if self._sum is not None and self._overlap:
            self._sum.begin(self._last)

    def update(self, *, rate: float, whole: bool) -> float:
        """Sum over the ranks, clip, update the weights; see `Updater.update`."""
        if self._sum is not None:
            self._sum.finish()
        filled, self._filled = self._filled, {}
        within = {parameter: TensorSlice.around(slices) for parameter, slices in filled.items()}
        self.optimizer.set(lr=rate, whole=whole)
        norm = self.optimizer.clipped_step(self._clip_norm, within)
        if math.isfinite(norm):
            for parameter, slices in filled.items():
                keep_gradient(parameter, slices)
        self.optimizer.zero_grad(set_to_none=True)
        return norm
