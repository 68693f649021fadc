"""The room that fetched shards may take on a disk, for all processes that use their folder."""

from __future__ import annotations

import fcntl
import os
import re
import shutil
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from filelock import FileLock, Timeout

from nasvid.data.cancel import Flag

UNFINISHED = re.compile(r"\.(.+\.tar)\.\d+\.unfinished")
"""The name of a shard that is being fetched, or was when its process was killed."""
POLL = 0.1
"""Seconds between two looks whether other processes have made room."""


class NoRoomError(Exception):
    """Nothing can be removed to make room; the message says what takes it."""


@dataclass(frozen=True, slots=True)
class Room:
    """What the files in a folder may take together.

    limit: in bytes. Where the disk has less than that, it is the disk that limits. spare: bytes to
    leave free for what is needed more. wait: seconds to wait for other processes to make room.
    """

    folder: Path
    limit: int
    spare: int = 0
    wait: float = 0.0

    def grow(self, path: Path, size: int, cancelled: Flag) -> None:
        """Make a file this large, which reserves the room; shards are removed for it.

        Those that were used least recently go first, none that a process holds.

        Raises:
            NoRoomError: other processes hold the rest, or wait for it to be `cancelled`.
        """
        until = time.monotonic() + self.wait
        while (taken := self._grow(path, size)) is not None:
            if time.monotonic() >= until or cancelled.wait(POLL):
                raise NoRoomError(taken)

    def _grow(self, path: Path, size: int) -> str | None:
        """Return None once it is done, or else what takes the room."""
        with self._alone():
            sizes = _sizes(self.folder)
            used = sum(sizes.values()) - sizes.pop(path, 0)
            most = min(self.limit, used + shutil.disk_usage(self.folder).free) - self.spare
            for other in sorted(sizes, key=_last_use):
                if used + size <= most:
                    break
                if _remove(other):
                    used -= sizes[other]
            if used + size > most:
                return f"{used} bytes are in use, and {size} more are needed"
            os.truncate(path, size)
            return None

    def has(self, size: int) -> bool:
        """Return whether a file of this size may be added without removing what is in use.

        A guess: other processes come and go.
        """
        used = sum(each for path, each in _sizes(self.folder).items() if not _is_idle(path))
        return used + size <= self.limit - self.spare

    @contextmanager
    def _alone(self) -> Iterator[None]:
        """Keep other processes and threads from making room at the same time."""
        with (self.folder / ".room.lock").open("w") as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            yield


def hold(path: Path) -> BinaryIO | None:
    """Open a shard so that no process removes it until it is closed; None if it is gone."""
    try:
        file = path.open("rb", buffering=0)
    except FileNotFoundError:
        return None
    fcntl.flock(file, fcntl.LOCK_SH)
    if os.fstat(file.fileno()).st_nlink:
        return file
    file.close()
    return None


def let_go(file: BinaryIO) -> None:
    """Close a shard that was held, noting when."""
    with suppress(OSError):
        os.utime(file.fileno())
    file.close()


def largest(folder: Path) -> int:
    """Return the size of the largest shard in a folder, in bytes."""
    return max(_sizes(folder).values(), default=0)


def _sizes(folder: Path) -> dict[Path, int]:
    """Return the size of each shard in a folder, unfinished ones too."""
    sizes: dict[Path, int] = {}
    with os.scandir(folder) as entries:
        for entry in entries:
            if entry.name.endswith((".tar", ".unfinished")):
                with suppress(FileNotFoundError):
                    sizes[folder / entry.name] = entry.stat().st_size
    return sizes


def _last_use(path: Path) -> float:
    try:
        return path.stat().st_mtime
    except FileNotFoundError:
        return 0.0


def _remove(path: Path) -> bool:
    """Remove a shard that no process holds, or what a killed one left; return whether it could."""
    if unfinished := UNFINISHED.fullmatch(path.name):
        try:
            with FileLock(path.with_name(f".{unfinished[1]}.lock"), timeout=0):
                path.unlink(missing_ok=True)
        except Timeout:
            return False
        return True
    return _is_idle(path, then=lambda: path.unlink(missing_ok=True))


def _is_idle(path: Path, then: Callable[[], None] = lambda: None) -> bool:
    """Return whether no process holds a shard. then: called if so, while none can begin to."""
    try:
        with path.open("rb", buffering=0) as file:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            then()
    except FileNotFoundError:
        return True
    except BlockingIOError:
        return False
    return True
