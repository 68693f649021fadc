"""Engine `torch`: plain PyTorch, on one process or with data parallelism."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch
import torch.distributed as dist
from torch import nn

from nasvid.distributed.ranks import Ranks, lost_ranks
from nasvid.recipe.sections import TrainingSection
from nasvid.training.engine import Engine, Shard, Updater, make_optimizer
from nasvid.training.resources import Resources, Workload, ring_bytes, state_bytes, step_bytes

BUCKET = 1 << 25
"""Elements of the gradients sent at a time."""


class TorchEngine(Engine):
    """Plain PyTorch: one process, or data parallelism with the whole state on each rank."""

    def start(self, net: nn.Module, settings: TrainingSection, ranks: Ranks) -> TorchUpdater:
        """Return the updater of a net's weights; see `Engine.start`."""
        return TorchUpdater(net, settings, ranks)

    def resources(self, work: Workload) -> Resources:
        """Return its needs: the whole state, and a bucket of gradients while they are sent."""
        bucket = min(work.size, 4 * (BUCKET + work.largest_tensor)) if work.devices > 1 else 0
        return Resources(
            optimizer=state_bytes(work.size, work),
            ema=work.size,
            update=max(bucket, step_bytes(work.size, work.largest_tensor, work)),
            host=0,
            sent=ring_bytes(2, work),
        )


class TorchUpdater(Updater):
    """Sums gradients over the ranks once per step, after its last backward pass.

    Only parameters that the step's subnets used have gradients. All ranks train the same subnets,
    so they agree on which; `DistributedDataParallel` would have to search every subnet's graph for
    unused parameters.
    """

    divided = False

    def __init__(self, net: nn.Module, settings: TrainingSection, ranks: Ranks) -> None:
        self._ranks, self._clip_norm = ranks, settings.clip_norm
        self._parameters = list(net.parameters())
        self.optimizer = make_optimizer(self._parameters, settings)
        self.shards = [Shard.whole(name, p) for name, p in net.named_parameters()]

    def update(self, *, rate: float, whole: bool) -> float:
        """Sum over the ranks, clip, update the weights; see `Updater.update`."""
        if self._ranks.size > 1:
            add_up([p.grad for p in self._parameters if p.grad is not None])
        self.optimizer.set(lr=rate, whole=whole)
        norm = self.optimizer.clipped_step(self._clip_norm)
        self.optimizer.zero_grad(set_to_none=True)
        return norm


def add_up(gradients: Sequence[torch.Tensor]) -> None:
    """Replace each gradient by its sum over the ranks, in place.

    Raises:
        RankLost: another rank has ended.
    """
    for bucket in _buckets(gradients):
        flat = torch.cat([gradient.reshape(-1) for gradient in bucket])
        with lost_ranks():
            dist.all_reduce(flat)
        parts = flat.split([gradient.numel() for gradient in bucket])
        for gradient, part in zip(bucket, parts, strict=True):
            gradient.copy_(part.view_as(gradient))


def _buckets(gradients: Sequence[torch.Tensor]) -> Iterator[list[torch.Tensor]]:
    bucket: list[torch.Tensor] = []
    for gradient in gradients:
        bucket.append(gradient)
        if sum(each.numel() for each in bucket) >= BUCKET:
            yield bucket
            bucket = []
    if bucket:
        yield bucket
