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
    """Nothing can be removed to make room; the message says what takes it.

    of_disk: whether it is the disk that is full, not the folder.
    """

    def __init__(self, message: str, *, of_disk: bool) -> None:
        super().__init__(message)
        self.of_disk = of_disk


@dataclass(frozen=True, slots=True)
class Room:
    """What the files in a folder may take together.

    limit: in bytes. Where the disk has less than that, it is the disk that limits. spare: bytes to
    leave free for what is needed more. wait: seconds to wait for other processes to make room.
    removes: whether shards may be removed.
    """

    folder: Path
    limit: int
    spare: int = 0
    wait: float = 0.0
    removes: bool = True

    def grow(self, path: Path, size: int, cancelled: Flag) -> None:
        """Make a file this large, which reserves the room; shards are removed for it.

        Those that were used least recently go first, none that a process holds.

        Raises:
            NoRoomError: other processes hold the rest, or wait for it to be `cancelled`.
        """
        until = time.monotonic() + self.wait
        while (error := self._grow(path, size)) is not None:
            if time.monotonic() >= until or cancelled.wait(POLL):
                raise error

    def _grow(self, path: Path, size: int) -> NoRoomError | None:
        """Return None once it is done, or else what takes the room."""
        with self.alone():
            files = _files(self.folder)
            most, used = self._most(files), _total(files)
            used -= files.pop(path).st_size if path in files else 0
            for other in _oldest_first(files) if self.removes else ():
                if used + size <= most:
                    break
                if _remove(other):
                    used -= files[other].st_size
            if used + size > most:
                taken = f"{used} bytes are in use, and {size} more are needed"
                return NoRoomError(taken, of_disk=most < self.limit - self.spare)
            os.truncate(path, size)
            return None

    def has(self, size: int) -> bool:
        """Return whether a file of this size may be added without removing what is in use.

        A guess: other processes come and go.
        """
        files = _files(self.folder)
        lacking = _total(files) + size - self._most(files)
        for path in _oldest_first(files):
            if lacking <= 0:
                break
            if _is_idle(path):
                lacking -= files[path].st_size
        return lacking <= 0

    def _most(self, files: dict[Path, os.stat_result]) -> int:
        """Return what the files may take; those that are being fetched have reserved more of it
        than they take of the disk so far."""
        written = sum(min(stat.st_size, 512 * stat.st_blocks) for stat in files.values())
        return min(self.limit, written + shutil.disk_usage(self.folder).free) - self.spare

    @contextmanager
    def alone(self) -> Iterator[None]:
        """Keep other processes and threads from making room at the same time.

        A file is also renamed so: whoever lists the folder might find it under neither name.
        """
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
    return max((stat.st_size for stat in _files(folder).values()), default=0)


def _files(folder: Path) -> dict[Path, os.stat_result]:
    """Return the shards in a folder, unfinished ones too."""
    files: dict[Path, os.stat_result] = {}
    with os.scandir(folder) as entries:
        for entry in entries:
            if entry.name.endswith((".tar", ".unfinished")):
                with suppress(FileNotFoundError):
                    files[folder / entry.name] = entry.stat()
    return files


def _total(files: dict[Path, os.stat_result]) -> int:
    return sum(stat.st_size for stat in files.values())


def _oldest_first(files: dict[Path, os.stat_result]) -> list[Path]:
    return sorted(files, key=lambda path: files[path].st_mtime)


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
