"""One process at a time in a folder: others are refused or wait, and are told which one it is."""

from __future__ import annotations

import os
import socket
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from nasvid.errors import Damaged, UserError
from nasvid.host.files import check_file, kept, make_folder, remove_unfinished, runs, write_json
from nasvid.host.reading import read_json
from nasvid.host.terminal import one_line

LOCK, OWNER = ".lock", ".owner.json"
"""The lock, which ends with its holder, and next to it a note of who holds it."""
POLL = 0.1
"""Seconds between two attempts."""
ORPHANS = 20.0
"""Seconds that the workers of a killed process may take to notice it; they share its lock."""
LATEST = 1e11
"""Seconds since the epoch, long after any note of an owner."""


@dataclass(frozen=True, slots=True)
class Owner:
    """The process that works in a folder. since: seconds since the epoch."""

    host: str
    pid: int
    since: float

    def __str__(self) -> str:
        when = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(self.since))
        return f"process {self.pid} on {self.host} since {when}"

    @property
    def ended(self) -> bool:
        """Whether it was a process of this machine and no longer is."""
        return self.host == socket.gethostname() and not runs(self.pid)


@contextmanager
def locked(folder: Path, patient: Callable[[str], None] | None = None) -> Iterator[None]:
    """Hold a folder's lock while the context lasts; the folder is made if need be.

    What killed processes have left unfinished in the folder is removed. If it is moved or deleted,
    writing into it is refused from then on.

    patient: called with who holds the lock before each new attempt to take it; None for no attempt
    but the first.

    Raises:
        UserError: another process holds it; the message says which, and since when.
    """
    make_folder(folder)
    check_file(folder / LOCK)
    lock = FileLock(folder / LOCK)
    began = time.monotonic()
    while not _taken(lock):
        owner = _owner(folder)
        is_leaving = owner is None or owner.ended
        if patient is not None:
            patient(str(owner or "another process"))
        elif not is_leaving or time.monotonic() - began > ORPHANS:
            raise UserError(
                f"{folder} is in use by {owner or 'another process'}; wait until it ends, or stop "
                "it"
            )
        time.sleep(POLL)
    try:
        write_json(folder / OWNER, asdict(Owner(socket.gethostname(), os.getpid(), time.time())))
        try:
            remove_unfinished(folder)
            with kept(folder / LOCK):
                yield
        finally:
            (folder / OWNER).unlink(missing_ok=True)
    finally:
        lock.release()


def _taken(lock: FileLock) -> bool:
    try:
        lock.acquire(timeout=0)
    except Timeout:
        return False
    return True


def _owner(folder: Path) -> Owner | None:
    """Return who holds a folder's lock; None if that is not, or not yet, noted."""
    try:
        return read_json(folder / OWNER, _noted)
    except Damaged:
        return None


def _noted(value: Any) -> Owner:
    owner = Owner(one_line(value["host"]), int(value["pid"]), float(value["since"]))
    if not 0 <= owner.since < LATEST:
        raise ValueError("its time is none")
    return owner
