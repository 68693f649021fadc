"""The folder where a machine keeps remote shards, each fetched by one process for all."""

from __future__ import annotations

import time
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from filelock import FileLock, Timeout

from nasvid.data import cancel
from nasvid.data.cancel import Flag
from nasvid.data.errors import DataError
from nasvid.data.fetch import Cancelled, FetchError, fetch
from nasvid.data.room import NoRoomError, Room, hold, largest
from nasvid.data.urls import check_url, file_name
from nasvid.recipe.paths import PIPE, is_url

AGAIN_AFTER = 600.0
"""Seconds before a process tries again to fetch a shard after a failure."""
ROOM_WAIT = 60.0
"""Seconds to wait for other processes to make room."""
CLOCK = 0.05
"""Seconds by which a file system's clock may be behind."""
_given_up: dict[str, tuple[float, str]] = {}
_kept: dict[Path, BinaryIO] = {}


@dataclass(frozen=True, slots=True)
class ShardCache:
    """A folder of fetched shards, which processes and runs may share.

    retries: attempts after the first. allow_pipes: whether `pipe:` commands may run. limit: bytes
    that the shards may take; those used least recently make room for others. None removes none.
    """

    folder: Path
    retries: int = 5
    allow_pipes: bool = False
    limit: int | None = None

    def place(self, shard: str) -> Path:
        """Return the path that a shard has on this machine once it is fetched."""
        return self.folder / file_name(shard) if is_url(shard) else Path(shard)

    def path(self, shard: str, cancelled: Flag | None = None) -> Path:
        """Return a shard's path on this machine, after fetching it if necessary.

        It stays there as long as this process. cancelled: stops the download.

        Raises:
            FetchError: it cannot be fetched. DataError: it may not be fetched, or cannot be stored.
        """
        path = self.place(shard)
        if not is_url(shard):
            return path
        if self.limit is not None and (path not in _kept or not path.exists()):
            _kept[path] = self.hold(shard, cancelled)
        elif not path.exists():
            self._fetch(shard, path, cancelled)
        return path

    def hold(self, shard: str, cancelled: Flag | None = None) -> BinaryIO:
        """Return a shard, open, after fetching it if necessary; while it is open it is kept.

        Raises:
            FileNotFoundError: a local one is not there.
            FetchError, DataError: as `path`, or there is no room for it.
        """
        path = self.place(shard)
        if not is_url(shard):
            return path.open("rb", buffering=0)
        cancelled = cancelled or cancel.of_process()
        while (file := hold(path)) is None:
            try:
                self._fetch(shard, path, cancelled, self._room(wait=ROOM_WAIT))
            except NoRoomError as error:
                if cancelled.is_set():
                    raise Cancelled("given up", lasting=True) from error
                raise DataError(
                    f"{shard} does not fit into {self.folder}: {error}; {_ask_for_room(error)}"
                ) from error
        return file

    def hold_ahead(self, shard: str, cancelled: Flag, spare: int) -> BinaryIO | None:
        """Return a remote shard that is needed later; None if other processes are in the way.

        One of them may be fetching it, or hold the room. spare: bytes to leave free.

        Raises:
            FetchError, DataError: as `path`.
        """
        path = self.place(shard)
        if (file := hold(path)) is not None:
            return file
        if not self.has_room(spare):
            return None
        room = self._room(spare=spare)
        try:
            self._fetch(shard, path, cancelled, room, lock_wait=0)
        except (NoRoomError, Timeout):
            return None
        return hold(path)

    @property
    def largest(self) -> int:
        """Size of the largest shard that is there, in bytes."""
        return largest(self.folder) if self.folder.exists() else 0

    def has_room(self, spare: int = 0) -> bool:
        """Return whether there is room for one more shard, as large as the largest so far.

        A guess: other processes come and go. spare: bytes to leave free.
        """
        room = self._room(spare=spare)
        return room is None or not self.folder.exists() or room.has(self.largest)

    def _room(self, *, spare: int = 0, wait: float = 0.0) -> Room | None:
        return None if self.limit is None else Room(self.folder, self.limit, spare, wait)

    def _fetch(
        self,
        shard: str,
        path: Path,
        cancelled: Flag | None,
        room: Room | None = None,
        lock_wait: float = -1,
    ) -> None:
        """Fetch a shard. lock_wait: seconds to wait for a process that does; -1 until it ends."""
        if shard.startswith(PIPE):  # a stored index may name a pipe even if the recipe does not
            check_url(shard, allow_pipes=self.allow_pipes)
        asked = time.time()
        when, why = _given_up.get(shard, (-AGAIN_AFTER, ""))
        if asked - when < AGAIN_AFTER:
            raise FetchError(why, lasting=True)
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            failed = self.folder / f".{path.name}.failed"
            with FileLock(self.folder / f".{path.name}.lock", timeout=lock_wait):
                if path.exists():  # another process has fetched it meanwhile
                    return
                if why := _failed_since(failed, asked):
                    raise FetchError(why, lasting=True)
                for torn in self.folder.glob(f".{path.name}.[0-9]*"):
                    torn.unlink(missing_ok=True)  # left by a killed process
                try:
                    fetch(shard, path, retries=self.retries, cancelled=cancelled, room=room)
                except Cancelled:
                    raise
                except FetchError as error:
                    failed.write_text(str(error), encoding="utf-8", errors="replace")
                    raise
                failed.unlink(missing_ok=True)
        except Cancelled:
            raise
        except FetchError as error:
            _given_up[shard] = time.time(), str(error)
            raise
        except Timeout:
            raise
        except OSError as error:
            raise DataError(
                f"{shard} cannot be stored in {self.folder}: {error.strerror}; set data.cache to "
                "another folder"
            ) from error


def _ask_for_room(error: NoRoomError) -> str:
    if error.of_disk:
        return "its disk is full: free some of it, or set data.cache to a folder on another disk"
    return (
        "raise data.cache_limit, into which two windows of each stream must fit for each run that "
        "uses the folder, or lower data.window"
    )


def _failed_since(path: Path, asked: float) -> str:
    """Return why another process could not fetch a shard while this one waited for it."""
    try:
        if path.stat().st_mtime < asked - CLOCK:
            return ""
        return path.read_text(encoding="utf-8")
    except FileNotFoundError:
        return ""
