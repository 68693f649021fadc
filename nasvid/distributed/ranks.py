"""The processes of a run: this one's rank, and the few values that they exchange."""

from __future__ import annotations

import itertools
import os
import sys
import time
import traceback
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import TypeVar

import torch
import torch.distributed as dist

from nasvid.distributed.parent import stop_with_parent
from nasvid.errors import Interrupted, RankLost, UserError

_turns = itertools.count()
T = TypeVar("T")
Stop = Callable[[], int | None]

PATIENCE = timedelta(minutes=30)
"""How long a rank waits for the others within a step."""
BROKEN = ("gloo", "NCCL", "Connection", "Broken pipe", "Timed out", "timed out")
"""Words in torch's errors when a rank no longer responds."""
TORCHRUN = "TORCHELASTIC_RUN_ID"
"""A variable that only torchrun sets; other launchers end their ranks, or may end before them."""
LEAVE = 10.0
"""Seconds that rank 0, when it is done, waits for the others to be done, too."""
POLL = 0.1
"""Seconds between two checks whether rank 0 has finished work that it does alone."""


@dataclass(frozen=True, slots=True)
class Ranks:
    """One of the processes that train together; `Ranks()` is a single process.

    rank: this process's rank, from 0. size: number of processes. local: its rank on its machine.
    """

    rank: int = 0
    size: int = 1
    local: int = 0

    @property
    def is_rank0(self) -> bool:
        """Whether this process is rank 0, which prints and does all work that is done only once."""
        return self.rank == 0

    def sum(self, values: Sequence[float]) -> list[float]:
        """Return each value's sum over all ranks, in fp64; the same on every rank.

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
        """Return all ranks' values, in rank order, on every rank.

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
        """Return rank 0's value on every rank.

        Raises:
            RankLost: another rank has ended.
        """
        if self.size == 1:
            return value
        received = [value]
        with lost_ranks():
            dist.broadcast_object_list(received, src=0)
        return received[0]

    def groups(self, count: int) -> list[tuple[int, Ranks]]:
        """Return which of `count` equal groups this rank is in, and its rank in each.

        If there are fewer ranks than groups, it is in several, alone in each.

        Raises:
            UserError: the ranks cannot be split into `count` equal groups.
        """
        if self.size % count == 0:
            each = self.size // count
            return [(self.rank // each, Ranks(self.rank % each, each))]
        if count % self.size == 0:
            each = count // self.size
            return [(group, Ranks()) for group in range(self.rank * each, (self.rank + 1) * each)]
        raise UserError(
            f"training.resolution_groups: {self.size} ranks cannot be split into {count} groups; "
            "one number must be a multiple of the other"
        )

    def share(self, total: int) -> range:
        """Return this rank's share of range(total); shares differ by at most one."""
        return range(self.rank * total // self.size, (self.rank + 1) * total // self.size)

    def rank0_does(self, what: Callable[[], T], stop: Stop) -> T | None:
        """Run a function on rank 0 while the others wait; return its result there.

        The other ranks return None. stop: returns the number of a signal that asks to stop, or
        None.

        Raises:
            RankLost: rank 0 has failed or ended.
            Interrupted: a signal was received while waiting.
        """
        if self.size == 1:
            return what()
        store, name = dist.distributed_c10d._get_default_store(), f"nasvid/{next_turn()}"
        if self.is_rank0:
            try:
                done = what()
            except BaseException:
                store.set(name, "failed")
                raise
            store.set(name, "done")
            return done
        with lost_ranks():
            # Not store.wait, which blocks signal handlers.
            while not store.check([name]):
                if (signal := stop()) is not None:
                    raise Interrupted(signal, "the command that rank 0 prints")
                time.sleep(POLL)
            if store.get(name) == b"failed":
                raise RankLost("Rank 0 has failed")
        return None


def next_turn() -> int:
    """Return a number for names in the store: the same on all ranks, which make the same calls."""
    return next(_turns)


ALONE = Ranks()
"""A run with a single process."""


@contextmanager
def lost_ranks() -> Iterator[None]:
    """Turn torch's errors about broken connections into RankLost."""
    try:
        yield
    except RuntimeError as error:  # DistError is one
        message = str(error)
        if isinstance(error, dist.DistError) or any(word in message for word in BROKEN):
            raise RankLost(message.partition("\n")[0]) from error
        raise


def launched() -> bool:
    """Return whether a launcher such as torchrun has started this process as one of many."""
    return int(os.environ.get("WORLD_SIZE", "1")) > 1


@contextmanager
def joined() -> Iterator[Ranks]:
    """Join the other processes, if a launcher has started any.

    CPU tensors go through gloo, CUDA tensors through NCCL; each process uses the CUDA device with
    its local rank's number. If torchrun is killed, its ranks save and stop.

    Raises:
        UserError: the launcher's environment variables are incomplete, or the ranks do not connect.
    """
    if not launched():
        yield Ranks()
        return
    missing = [name for name in ("RANK", "MASTER_ADDR", "MASTER_PORT") if name not in os.environ]
    if missing:
        raise UserError(
            f"WORLD_SIZE is set, but not {', '.join(missing)}; start nasvid through torchrun (see "
            "nasvid launch), or unset WORLD_SIZE"
        )
    if TORCHRUN in os.environ:
        stop_with_parent()
    local = int(os.environ.get("LOCAL_RANK", "0"))
    cuda = torch.cuda.is_available()
    if cuda:
        torch.cuda.set_device(local)
    try:
        dist.init_process_group("cpu:gloo,cuda:nccl" if cuda else "gloo", timeout=PATIENCE)
    except (dist.DistError, RuntimeError, ValueError) as error:
        where = f"{os.environ['MASTER_ADDR']}:{os.environ['MASTER_PORT']}"
        raise UserError(f"The ranks cannot connect to each other at {where}: {error}") from error
    ranks = Ranks(dist.get_rank(), dist.get_world_size(), local)
    try:
        yield ranks
        _leave(ranks)
    finally:
        dist.destroy_process_group()


def _leave(ranks: Ranks) -> None:
    """Let rank 0 end last: without torchrun the store, which others still read, ends with it."""
    store, until = dist.distributed_c10d._get_default_store(), time.monotonic() + LEAVE
    with suppress(RankLost), lost_ranks():
        store.add("nasvid/left", 1)
        while ranks.is_rank0 and store.add("nasvid/left", 0) < ranks.size:
            if time.monotonic() > until:  # another has failed
                return
            time.sleep(POLL / 10)


@contextmanager
def logged(folder: Path, ranks: Ranks) -> Iterator[None]:
    """Redirect the output of each rank except 0 to its own file, `logs/rank-00001.log`."""
    if ranks.is_rank0:
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
