"""The shards that one process reads, open while they are needed, and fetched ahead of that."""

from __future__ import annotations

import threading
from collections.abc import Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import cached_property
from typing import BinaryIO

import numpy as np

from nasvid.data import cancel
from nasvid.data.cache import ShardCache
from nasvid.data.cancel import Flag
from nasvid.data.errors import ClipError
from nasvid.data.fetch import Cancelled, FetchError
from nasvid.data.members import Contents, read_content
from nasvid.data.room import let_go
from nasvid.data.samples import MISSING, UNREACHABLE, Content, unreadable
from nasvid.errors import UserError
from nasvid.recipe.paths import is_url

AT_ONCE = 4
"""Number of shards that a process fetches at a time."""


@dataclass(frozen=True)
class Held:
    """An open shard. samples: how many it should have."""

    shard: str
    file: BinaryIO
    samples: int

    @cached_property
    def contents(self) -> Contents:
        """Its samples."""
        return Contents.of(self.file, self.samples)

    def key(self, number: int) -> str:
        """Return the key of a sample; for one that is not there, its number."""
        found = self.contents.samples
        return found[number].key if number < len(found) else f"#{number}"

    def close(self) -> None:
        """Close it; of a fetched one, it is noted when it was used last."""
        if is_url(self.shard):
            let_go(self.file)
        self.file.close()

    def read(self, number: int) -> Content:
        """Read a sample.

        Raises:
            ClipError: it is not there, no clip, or damaged. DataError: the system cannot read it.
        """
        try:
            if number >= len(self.contents.samples):
                raise ClipError(self.contents.damage or "truncated shard")
            return read_content(self.shard, self.file, self.contents.samples[number])
        except OSError as error:
            raise unreadable(self.shard, error) from error


class Shelf:
    """The shards that a process holds: those that it needs now, and those that it needs next.

    The latter are fetched by threads of this process, as far as no other process is doing so.
    Shards are named by their numbers.
    """

    def __init__(self, shards: Sequence[str], counts: np.ndarray, cache: ShardCache) -> None:
        self._shards, self._counts, self._cache = shards, counts, cache
        self._held: dict[int, Held] = {}
        self._wanted: list[int] = []
        self._needed: frozenset[int] = frozenset()
        self._elsewhere: frozenset[int] = frozenset()
        self._coming: set[int] = set()
        self._errors: dict[int, UserError] = {}
        self._changed = threading.Condition()
        self._closed: Flag | None = None
        self._threads: list[threading.Thread] = []

    def want(self, now: Iterable[int], then: Iterable[int], all_now: Iterable[int]) -> None:
        """Hold these shards from now on, and no others.

        now: needed at once. then: needed next. all_now: needed at once by any process.
        """
        order = list(dict.fromkeys([*now, *then]))
        with self._changed:
            self._needed, self._elsewhere = frozenset(now), frozenset(all_now)
            self._let_go(self._held.keys() - set(order))
            self._wanted = [
                number
                for number in order
                if number not in self._held and is_url(self._shards[number])
            ]
            if self._wanted:
                self._start()
                self._changed.notify_all()

    def get(self, number: int) -> Held:
        """Return a shard, open, as soon as it is there.

        Raises:
            ClipError: it cannot be fetched, or was removed. DataError: it cannot be read or stored.
        """
        shard = self._shards[number]
        try:
            return self._awaited(number) or self._opened(number)
        except FetchError as error:
            raise ClipError(UNREACHABLE) from error
        except FileNotFoundError as error:
            raise ClipError(MISSING) from error
        except OSError as error:
            raise unreadable(shard, error) from error

    def _awaited(self, number: int) -> Held | None:
        """Return a shard that is there or on the way; None if this thread has to open it."""
        with self._changed:
            while number in self._coming and number not in self._held:
                self._changed.wait(cancel.POLL)
                if self._cancelled().is_set():
                    raise Cancelled("given up", lasting=True)
            if (error := self._errors.pop(number, None)) is not None:
                raise error
            self._needed |= {number}
            if number not in self._held:
                self._coming.add(number)
            return self._held.get(number)

    def _opened(self, number: int) -> Held:
        try:
            held = self._hold(number, self._fetched(number, needed=True))
            assert held is not None, "what is needed is waited for"
            return held
        finally:
            self._done(number)

    def key(self, number: int, sample: int) -> str:
        """Return the key of a sample of a shard; if the shard is not there, its number."""
        held = self._held.get(number)
        return held.key(sample) if held else f"#{sample}"

    def close(self) -> None:
        """Let go of everything, and stop fetching."""
        self._cancelled().set()
        with self._changed:
            self._wanted = []
            self._let_go(self._held)
            self._changed.notify_all()

    def _cancelled(self) -> Flag:
        """Return what cancels this process's downloads; one that was forked has its own."""
        if self._closed is None:
            self._closed = Flag(cancel.of_process())
        return self._closed

    def _start(self) -> None:
        while len(self._threads) < AT_ONCE:
            thread = threading.Thread(target=self._fetch_ahead, daemon=True)
            self._threads.append(thread)
            thread.start()

    def _fetch_ahead(self) -> None:
        cancelled = self._cancelled()
        while not cancelled.is_set():
            with self._changed:
                while not self._wanted and not cancelled.is_set():
                    self._changed.wait(1.0)
                if cancelled.is_set():
                    return
                number = self._wanted.pop(0)
                if number in self._held or number in self._coming:
                    continue
                self._coming.add(number)
                needed = number in self._needed
            try:
                with suppress(FetchError, OSError):  # said when it is read
                    self._hold(number, self._fetched(number, needed))
            except UserError as error:  # of what is needed later, another attempt is made then
                if needed:
                    self._errors[number] = error
            finally:
                self._done(number)

    def _fetched(self, number: int, needed: bool) -> BinaryIO | None:
        shard, cancelled = self._shards[number], self._cancelled()
        if not needed:
            return self._cache.hold_ahead(shard, cancelled, self._spare())
        if not (self._is_there(number) or self._cache.has_room()):
            self._let_go(self._held.keys() - self._needed)
        return self._cache.hold(shard, cancelled)

    def _spare(self) -> int:
        """Return the bytes that shards which any process needs now may still take."""
        missing = [each for each in self._elsewhere if not self._is_there(each)]
        return self._cache.largest * len(missing)

    def _is_there(self, number: int) -> bool:
        return number in self._held or self._cache.place(self._shards[number]).exists()

    def _hold(self, number: int, file: BinaryIO | None) -> Held | None:
        if file is None:
            return None
        held = Held(self._shards[number], file, int(self._counts[number]))
        with self._changed:
            if self._cancelled().is_set():
                held.close()
                raise Cancelled("given up", lasting=True)
            self._held[number] = held
        return held

    def _let_go(self, numbers: Iterable[int]) -> None:
        with self._changed:
            for number in list(numbers):
                self._held.pop(number).close()

    def _done(self, number: int) -> None:
        with self._changed:
            self._coming.discard(number)
            self._changed.notify_all()
