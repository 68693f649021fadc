"""The processes of a run: which one this is, and the few numbers that they agree on."""

from __future__ import annotations

import itertools
import os
import sys
import time
import traceback
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import TypeVar

import torch
import torch.distributed as dist

from nasvid.errors import Interrupted, RankLost, UserError

_turns = itertools.count()  # the same on all ranks, which do the same things
T = TypeVar("T")
Stop = Callable[[], int | None]

PATIENCE = timedelta(minutes=30)
"""How long a rank waits for the others within a step."""
BROKEN = ("gloo", "NCCL", "Connection", "Broken pipe", "Timed out", "timed out")
"""Words of what torch says when a rank no longer answers."""
POLL = 0.1
"""Seconds between two looks at whether the first rank is done with a stage of its own."""


@dataclass(frozen=True, slots=True)
class Ranks:
    """One of the processes that train together; by itself, `Ranks()`.

    rank: this one, from 0. size: how many there are. local: this one on its machine.
    """

    rank: int = 0
    size: int = 1
    local: int = 0

    @property
    def first(self) -> bool:
        """Whether this process is the one that prints, and that does what needs doing once."""
        return self.rank == 0

    def sum(self, values: Sequence[float]) -> list[float]:
        """Return each value's sum over all ranks, in fp64, the same on each.

        Raises:
            RankLost: another rank has ended.
        """
        if self.size == 1:
            return list(values)
        numbers = torch.tensor(values, dtype=torch.float64)
        with lost_ranks():
            dist.all_reduce(numbers)
        return numbers.tolist()

    def gather(self, value: T) -> list[T]:
        """Return each rank's value, in their order, on every rank.

        Raises:
            RankLost: another rank has ended.
        """
        if self.size == 1:
            return [value]
        found = [value] * self.size
        with lost_ranks():
            dist.all_gather_object(found, value)
        return found

    def agree(self, value: T) -> T:
        """Return the first rank's value on every rank.

        Raises:
            RankLost: another rank has ended.
        """
        if self.size == 1:
            return value
        said = [value]
        with lost_ranks():
            dist.broadcast_object_list(said, src=0)
        return said[0]

    def groups(self, count: int) -> list[tuple[int, Ranks]]:
        """Return the groups that this rank is in, of `count` equal ones, and which of their ranks.

        With fewer ranks than groups it is in several, and alone in each.

        Raises:
            UserError: the ranks cannot be divided so.
        """
        if self.size % count == 0:
            each = self.size // count
            return [(self.rank // each, Ranks(self.rank % each, each))]
        if count % self.size == 0:
            each = count // self.size
            return [(group, Ranks()) for group in range(self.rank * each, (self.rank + 1) * each)]
        raise UserError(
            f"training.resolution_groups: {self.size} ranks are not to be divided into {count} "
            "groups: use a multiple or a part of either"
        )

    def share(self, total: int) -> range:
        """Return which of `total` things in a row are this rank's; shares differ by one at most."""
        return range(self.rank * total // self.size, (self.rank + 1) * total // self.size)

    def first_does(self, what: Callable[[], T], stop: Stop) -> T | None:
        """Let the first rank do something for all; the others wait until it is done.

        stop: returns the number of a signal that asks to stop, or None. Returns what the first
        rank got; None on the others.

        Raises:
            RankLost: the first rank has failed or ended.
            Interrupted: a signal came while waiting.
        """
        if self.size == 1:
            return what()
        store, name = dist.distributed_c10d._get_default_store(), f"nasvid/{next(_turns)}"
        if self.first:
            try:
                done = what()
            except BaseException:
                store.set(name, "failed")
                raise
            store.set(name, "done")
            return done
        with lost_ranks():
            # Not store.wait: while it waits no signal is heard.
            while not store.check([name]):
                if (signal := stop()) is not None:
                    raise Interrupted(signal, "the first rank says")
                time.sleep(POLL)
            if store.get(name) == b"failed":
                raise RankLost("the first rank has failed")
        return None


ALONE = Ranks()
"""The only process of a run."""


@contextmanager
def lost_ranks() -> Iterator[None]:
    """Turn torch's errors of a broken connection into RankLost."""
    try:
        yield
    except RuntimeError as error:  # DistError is one
        said = str(error)
        if isinstance(error, dist.DistError) or any(word in said for word in BROKEN):
            raise RankLost(said.partition("\n")[0]) from error
        raise


def launched() -> bool:
    """Return whether a launcher, such as torchrun, has started this process as one of many."""
    return int(os.environ.get("WORLD_SIZE", "1")) > 1


@contextmanager
def joined() -> Iterator[Ranks]:
    """Join the other processes, where a launcher says that there are any.

    Tensors on the CPU go through gloo, those on CUDA devices through NCCL; each process takes the
    CUDA device of its number on its machine.

    Raises:
        UserError: what the launcher says of them is not complete, or they do not come.
    """
    if not launched():
        yield Ranks()
        return
    missing = [name for name in ("RANK", "MASTER_ADDR", "MASTER_PORT") if name not in os.environ]
    if missing:
        raise UserError(
            f"WORLD_SIZE is set and {', '.join(missing)} is not: start nasvid through torchrun "
            "(nasvid launch shows how), or unset WORLD_SIZE"
        )
    local = int(os.environ.get("LOCAL_RANK", "0"))
    cuda = torch.cuda.is_available()
    if cuda:
        torch.cuda.set_device(local)
    try:
        dist.init_process_group("cpu:gloo,cuda:nccl" if cuda else "gloo", timeout=PATIENCE)
    except (dist.DistError, RuntimeError, ValueError) as error:
        where = f"{os.environ['MASTER_ADDR']}:{os.environ['MASTER_PORT']}"
        raise UserError(f"the ranks do not find each other at {where}: {error}") from error
    try:
        yield Ranks(dist.get_rank(), dist.get_world_size(), local)
    finally:
        dist.destroy_process_group()


@contextmanager
def logged(folder: Path, ranks: Ranks) -> Iterator[None]:
    """Send what all ranks but the first print into a file each, `logs/rank-00001.log`."""
    if ranks.first:
        yield
        return
    path = folder / "logs" / f"rank-{ranks.rank:05d}.log"
    path.parent.mkdir(parents=True, exist_ok=True)
    kept = [os.dup(1), os.dup(2)]
    with path.open("ab") as file:
        for descriptor in (1, 2):
            os.dup2(file.fileno(), descriptor)
        try:
            yield
        except Exception:
            traceback.print_exc()
            raise
        finally:
            sys.stdout.flush()
            for descriptor, before in zip((1, 2), kept, strict=True):
                os.dup2(before, descriptor)
                os.close(before)
