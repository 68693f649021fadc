"""Work that the ranks divide among themselves, piece by piece: whoever is free takes the next."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from datetime import timedelta
from functools import lru_cache
from typing import Any, Generic, TypeVar

import torch
import torch.distributed as dist

from nasvid.distributed.ranks import POLL, Ranks, Stop, lost_ranks, next_turn
from nasvid.errors import Interrupted, RankLost, UserError

W = TypeVar("W")
T = TypeVar("T")
R = TypeVar("R")
Share = Callable[[Sequence[W]], Iterable[T]]
"""Has pieces of work done; returns their results, in the order of the pieces."""
KEPT = "what is done is kept"
"""What is said of work that a signal has stopped, until the command that resumes it is known."""
DAYS = timedelta(days=30)
"""How long a rank waits for the others to finish a piece: no limit, but one that has ended ends it.
"""


def divide(ranks: Ranks, work: Sequence[W], do: Callable[[W], T], stop: Stop) -> list[T]:
    """Do each piece of work on one of the ranks; return all results, in order, on every rank.

    All ranks call this with the same work. After a signal to any of them, no more is begun.

    do: one piece; what it raises on one rank ends the work of all. stop: returns the number of a
    signal that asks to stop, or None.

    Raises:
        UserError: `do` has raised it, on any rank.
        RankLost: another rank has ended, or `do` has failed there.
        Interrupted: a signal was received before all was done.
    """
    if ranks.size == 1:
        return list(_in_turn(work, do, stop))
    store, counter = _store(), f"nasvid/{next_turn()}"
    part, error = _Part[T](), None
    while part.signal is None and (place := store.add(counter, 1) - 1) < len(work):
        try:
            part.done[place] = do(work[place])
        except Exception as raised:
            part.failed = (place, isinstance(raised, UserError), f"{raised}", type(raised).__name__)
            error = raised
        part.signal = stop()
        if part.failed or part.signal is not None:
            store.add(counter, len(work))  # nothing is left for anyone
            break
    _meet(lambda: stop() is not None and store.add(counter, len(work)))
    everyone = ranks.gather(part)
    if error is not None:
        raise error
    _raise_failure(everyone)
    found = {place: result for each in everyone for place, result in each.done.items()}
    if len(found) < len(work):
        raise Interrupted(max(each.signal or 0 for each in everyone), KEPT)
    return [found[place] for place in range(len(work))]


def rounds(ranks: Ranks, work: Sequence[W]) -> Iterator[Sequence[W]]:
    """Yield the work in rounds of one piece for each rank."""
    for first in range(0, len(work), ranks.size):
        yield work[first : first + ranks.size]


def lead(
    ranks: Ranks, do: Callable[[W], T], body: Callable[[Share[W, T]], R], stop: Stop
) -> R | None:
    """Run `body` on rank 0, with a function that divides work among all ranks.

    The other ranks do what it divides, until `body` ends, and return None. On a single rank each
    piece is done when its result is asked for.

    do, stop: as in `divide`.

    Raises:
        UserError, RankLost, Interrupted: as in `divide`, or whatever `body` has raised on rank 0.
    """
    if ranks.size == 1:
        return body(lambda work: map(do, work))
    store, name = _store(), f"nasvid/{next_turn()}"
    if not ranks.is_rank0:
        number = 0
        while _has_more(store, f"{name}/{number}", stop):
            divide(ranks, ranks.agree([]), do, stop)
            number += 1
        return None
    sent = 0

    def share(work: Sequence[W]) -> list[T]:
        nonlocal sent
        if (signal := stop()) is not None:
            raise Interrupted(signal, KEPT)
        store.set(f"{name}/{sent}", MORE)
        found = divide(ranks, ranks.agree(work), do, stop)
        store.delete_key(f"{name}/{sent}")  # all have read it
        sent += 1
        return found

    try:
        done = body(share)
    except BaseException:
        store.set(f"{name}/{sent}", FAILED)
        raise
    store.set(f"{name}/{sent}", ENDED)
    return done


MORE, FAILED, ENDED = b"more", b"failed", b"ended"


@dataclass(slots=True)
class _Part(Generic[T]):
    """What one rank has done of the work: results by place.

    failed: the place of what has failed, whether a user can mend it, what it said, its type.
    """

    done: dict[int, T] = field(default_factory=dict)
    failed: tuple[int, bool, str, str] | None = None
    signal: int | None = None


def _in_turn(work: Sequence[W], do: Callable[[W], T], stop: Stop) -> Iterable[T]:
    for number, piece in enumerate(work, start=1):
        yield do(piece)
        if number < len(work) and (signal := stop()) is not None:
            raise Interrupted(signal, KEPT)


def _raise_failure(everyone: Sequence[_Part[Any]]) -> None:
    failures = [
        (*each.failed, rank) for rank, each in enumerate(everyone) if each.failed is not None
    ]
    if failures:
        _, is_users, said, kind, rank = min(failures)
        raise UserError(said) if is_users else RankLost(f"Rank {rank} has failed: {kind}: {said}")


def _has_more(store: Any, name: str, stop: Stop) -> bool:
    """Wait for rank 0's next message; return whether it is about to send more work."""
    with lost_ranks():
        while not store.check([name]):
            time.sleep(POLL / 5)
        message = store.get(name)
    if message == FAILED:
        if (signal := stop()) is not None:
            raise Interrupted(signal, KEPT)
        raise RankLost("Rank 0 has failed")
    return message == MORE


def _meet(meanwhile: Callable[[], object]) -> None:
    """Wait until all ranks are here, however long that takes.

    meanwhile: called again and again; signals are handled.

    Raises:
        RankLost: another rank has ended.
    """
    with lost_ranks():
        met = dist.all_reduce(torch.zeros(1), group=_patient(dist.group.WORLD), async_op=True)
        assert met is not None
        while not met.is_completed():
            meanwhile()
            time.sleep(POLL / 10)
        met.wait()


@lru_cache(maxsize=1)
def _patient(world: object) -> dist.ProcessGroup:
    """Return a group of all ranks of the world that waits for days; all make it together."""
    del world  # which another one may follow
    return dist.new_group(backend="gloo", timeout=DAYS)  # pyright: ignore[reportReturnType]


def _store() -> Any:
    return dist.distributed_c10d._get_default_store()
