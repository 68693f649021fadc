"""Sums of gradients over the ranks, bucket by bucket, while the last backward pass still runs."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from typing import Any

import torch
import torch.distributed as dist

from nasvid.distributed.ranks import Ranks, lost_ranks
from nasvid.errors import UserError

BUCKET = 1 << 23
"""Elements of the gradients sent at a time."""


class GradientSum:
    """Replaces each gradient by its sum over the ranks, in place.

    Parameters are put into buckets in their order. A bucket is sent once all gradients in it are
    final; those that are None, which are the same on all ranks, are left out. All ranks send in the
    same order: in that in which gradients have become final on rank 0 before. It does not change
    the sums, so a resumed run gets the same.

    parameters: by name, in the same order on all ranks.
    """

    def __init__(self, parameters: Mapping[str, torch.Tensor], ranks: Ranks) -> None:
        self._names, self._ranks = {p: name for name, p in parameters.items()}, ranks
        self._buckets = list(_buckets(parameters.values()))
        self._bucket_of = {p: n for n, bucket in enumerate(self._buckets) for p in bucket}
        self._final_at: dict[torch.Tensor, float] = {}
        """When a gradient became final, as a share of all that did in the same backward pass."""
        self._awaited: list[set[torch.Tensor]] | None = None
        """What each bucket waits for; None between `finish` and `begin`."""
        self._new: list[torch.Tensor] = []
        self._arrived: list[torch.Tensor] = []
        self._unsent: list[int] = []
        self._works: list[Any] = []
        for parameter in self._names:
            if parameter.requires_grad:
                parameter.register_post_accumulate_grad_hook(self._arrives)

    @property
    def unsent(self) -> int:
        """Number of buckets that have not been sent since `begin`."""
        return len(self._unsent)

    def begin(self, awaited: Collection[torch.Tensor]) -> None:
        """Send in the background what is final, and the rest as it becomes so.

        awaited: the parameters whose gradients the coming backward pass may still change.
        """
        self._awaited = [set() for _ in self._buckets]
        for parameter in awaited:
            self._awaited[self._bucket_of[parameter]].add(parameter)
        self._new = [parameter for parameter in awaited if parameter not in self._final_at]
        self._arrived = []
        ready_at = [max(map(self._expected, waits), default=-1.0) for waits in self._awaited]
        self._unsent = sorted(range(len(ready_at)), key=lambda n: (ready_at[n], n), reverse=True)
        self._send_ready(self._awaited)

    def finish(self) -> None:
        """Send what is left, all if `begin` was not called, and wait for all sums.

        Raises:
            RankLost: another rank has ended.
        """
        if self._awaited is None:
            self.begin(())
        self._awaited = None
        while self._unsent:
            self._send(self._unsent.pop())
        works, self._works = self._works, []
        with lost_ranks():
            for work in works:
                work.wait()
        if self._new:
            self._learn()

    def _learn(self) -> None:
        """Agree on when the gradients of new parameters become final, by what rank 0 saw."""
        shares = {p: n / len(self._arrived) for n, p in enumerate(self._arrived)}
        agreed = self._ranks.agree([shares.get(parameter, 1.0) for parameter in self._new])
        self._final_at.update(zip(self._new, agreed, strict=True))

    def _expected(self, parameter: torch.Tensor) -> float:
        """Return when a gradient becomes final; of an unknown one, as if the first were last."""
        backwards = 1 - self._bucket_of[parameter] / len(self._buckets)
        return self._final_at.get(parameter, backwards)

    def _arrives(self, parameter: torch.Tensor) -> None:
        """Note that a gradient is final, if this is a step's last backward pass."""
        if self._awaited is None:
            return
        bucket = self._bucket_of[parameter]
        if bucket not in self._unsent:
            raise UserError(
                f"The gradient of {self._names[parameter]} has changed after it was sent: the "
                "backward pass reached it twice; checkpoint with use_reentrant=False in the model, "
                "or set training.engine: {name: torch, overlap: false}"
            )
        self._arrived.append(parameter)
        self._awaited[bucket].discard(parameter)
        self._send_ready(self._awaited)

    def _send_ready(self, awaited: list[set[torch.Tensor]]) -> None:
        while self._unsent and not awaited[self._unsent[-1]]:
            self._send(self._unsent.pop())

    def _send(self, bucket: int) -> None:
        gradients = [p.grad for p in self._buckets[bucket] if p.grad is not None]
        if not gradients:
            return
        together = dist.distributed_c10d._coalescing_manager(async_ops=True)
        with lost_ranks(), together as work:
            for gradient in gradients:
                dist.all_reduce(gradient)
        self._works.append(work)


def _buckets(parameters: Collection[torch.Tensor]) -> Iterator[list[torch.Tensor]]:
    bucket: list[torch.Tensor] = []
    for parameter in parameters:
        bucket.append(parameter)
        if sum(each.numel() for each in bucket) >= BUCKET:
            yield bucket
            bucket = []
    if bucket:
        yield bucket
