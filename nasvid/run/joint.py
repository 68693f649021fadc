"""Work of all ranks in one folder, from which other processes are kept out."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import TypeVar

from nasvid.distributed.ranks import ALONE, Ranks, Stop
from nasvid.errors import Interrupted
from nasvid.host.display import Display
from nasvid.host.lock import locked

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Joint:
    """The ranks of a command, where they print, and what asks them to stop."""

    display: Display
    stop: Stop = lambda: None
    ranks: Ranks = ALONE

    def agree(self, do: Callable[[], T]) -> T:
        """Return on every rank what a function returns on rank 0, which alone calls it."""
        return self.ranks.agree(self.ranks.rank0_does(do, self.stop))  # pyright: ignore[reportReturnType]

    @contextmanager
    def alone_in(self, folder: Path, what: str) -> Iterator[None]:
        """Hold a folder's lock while the context lasts; wait for another process that has it.

        what: is made there, for the line that says so.
        """
        say_once = lru_cache(self.display.say)

        def wait(owner: str) -> None:
            say_once(f"{what}: waiting for {owner}, which works in {folder}")
            if (signal := self.stop()) is not None:
                raise Interrupted(signal, "the same command")

        with ExitStack() as lock:
            self.ranks.rank0_does(lambda: lock.enter_context(locked(folder, wait)), self.stop)
            yield
