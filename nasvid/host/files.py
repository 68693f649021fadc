"""Files and folders that are either whole or absent, also after a power cut; logs that survive."""

from __future__ import annotations

import errno
import json
import os
import re
import shutil
from collections.abc import Collection, Iterator
from contextlib import contextmanager, suppress
from glob import escape
from pathlib import Path
from typing import Any

from nasvid.errors import UserError
from nasvid.host.words import bytes_text

FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS)
"""Error numbers of a disk that is full or cannot be written to."""
FAILING = (*FULL, errno.EIO)
"""The same, and that of a disk that fails; one that fails to be read has it, too."""
TEMPORARY = re.compile(r"\..+\.(\d+)\.unfinished")
"""The name of an unfinished file or folder; its number is the process that makes it."""
_kept: dict[Path, os.stat_result] = {}


class NotWritten(UserError):
    """A file cannot be written, most often because the disk is full; earlier ones are intact.

    path: of the file. reason: the system's error. room: how much is free and needed.
    needed: about how many bytes; 0 if unknown.
    """

    def __init__(self, path: Path, reason: str, room: str, needed: int = 0) -> None:
        super().__init__(f"{path} cannot be written: {reason}; {room}")
        self.path = path
        self.reason = reason
        self.room = room
        self.needed = needed

    def __reduce__(self) -> tuple[type[NotWritten], tuple[Path, str, str, int]]:
        return type(self), (self.path, self.reason, self.room, self.needed)  # between ranks


@contextmanager
def atomic_path(path: Path, *, needed: int = 0, durable: bool = True) -> Iterator[Path]:
    """Yield a temporary path beside `path`; on success it becomes `path`, on error it is removed.

    A process killed in between leaves at most a file whose name starts with a dot.

    needed: about how many bytes will be written, 0 if unknown; for the message when they do not
    fit. durable: wait until the file is on the disk; without it a power cut may leave it empty.

    Raises:
        NotWritten: the disk is full.
    """
    with writing(path, needed):
        make_folder(path.parent)
        temporary = _temporary(path)
        try:
            yield temporary
            if durable:
                sync(temporary)
            _make_way(path)
            os.replace(temporary, path)
            if durable:
                sync(path.parent)
        finally:
            temporary.unlink(missing_ok=True)


@contextmanager
def atomic_folder(target: Path, *, needed: int = 0) -> Iterator[Path]:
    """Yield a temporary folder beside `target`; on success it replaces `target`, older or absent.

    A folder cannot be replaced at once: `target` is absent for a moment. needed: as `atomic_path`.

    Raises:
        NotWritten: the disk is full.
    """
    with writing(target, needed):
        temporary = _temporary(target)
        shutil.rmtree(temporary, ignore_errors=True)
        make_folder(temporary)
        try:
            yield temporary
            replace_folder(temporary, target)
        finally:
            shutil.rmtree(temporary, ignore_errors=True)


def replace_folder(new: Path, target: Path) -> None:
    """Move a folder to `target` once all of it is on the disk; what was there is removed."""
    sync_all(new)
    old = _temporary(target, ".old")
    shutil.rmtree(old, ignore_errors=True)
    if target.is_dir():
        os.replace(target, old)
    else:
        target.unlink(missing_ok=True)
    os.replace(new, target)
    sync(target.parent)
    shutil.rmtree(old, ignore_errors=True)


def sync_all(folder: Path) -> None:
    """Wait until a folder and what it holds, at any depth, are on the disk."""
    for path in (*folder.rglob("*"), folder):
        sync(path)


def _temporary(path: Path, what: str = "") -> Path:
    """Return a path beside another that `TEMPORARY` knows, and which is no one else's."""
    return path.with_name(f".{path.name}{what}.{os.getpid()}.unfinished")


def sync(path: Path) -> None:
    """Wait until a file, or the names in a folder, are on the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _make_way(path: Path) -> None:
    """Remove an empty folder that is in the place of a file."""
    if path.is_dir() and not path.is_symlink():
        with suppress(OSError):
            path.rmdir()
        check_file(path)


def check_file(path: Path) -> None:
    """Check that a path is a file or free.

    Raises:
        UserError: it is a folder, and what it holds may be somebody's.
    """
    if path.is_dir():
        raise UserError(f"{path} is a folder where a file belongs; move it away")


def remove(path: Path) -> None:
    """Remove a file or a whole folder; it may be absent."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


@contextmanager
def writing(path: Path, needed: int = 0, numbers: Collection[int] = FULL) -> Iterator[None]:
    """Turn the errors of a full disk into one that says what could not be written, and why.

    needed: as `atomic_path`. numbers: of these errors; `FAILING` where nothing is read. Of several
    contexts the outermost is named, whose path people know.

    Raises:
        NotWritten: the disk is full, or may not be written to.
    """
    try:
        yield
    except NotWritten as inner:
        needed = max(needed, inner.needed)
        raise NotWritten(path, inner.reason, _room(path, needed), needed) from inner
    except OSError as error:
        if error.errno not in numbers:
            raise
        reason = error.strerror or "it cannot be written to"
        raise NotWritten(path, reason, _room(path, needed), needed) from error


def check_room(path: Path, needed: int) -> None:
    """Check that a file of so many bytes can be written, for writers that a full disk kills.

    Raises:
        OSError: it cannot; the system says why.
    """
    try:
        with path.open("wb") as file:
            os.posix_fallocate(file.fileno(), 0, needed)
    finally:
        path.unlink(missing_ok=True)


def _room(path: Path, needed: int) -> str:
    """Return how much is free where a file would be, and how much it needs if that is more."""
    place = next(each for each in path.absolute().parents if each.is_dir())
    disk = os.statvfs(place)
    free = disk.f_bavail * disk.f_frsize
    if disk.f_files and not disk.f_favail:
        return f"the disk of {place} has {bytes_text(free)} free, but can hold no more files"
    size = f", and about {bytes_text(needed)} are needed" if needed > free else ""
    return f"{place} has {bytes_text(free)} free{size}"


@contextmanager
def kept(witness: Path) -> Iterator[None]:
    """While the context lasts, refuse to write into a folder that is no longer the one it was.

    witness: a file in it. A folder that is deleted file by file may be there for a while without.
    """
    place = witness.absolute()
    _kept[place] = place.stat()
    try:
        yield
    finally:
        del _kept[place]


def make_folder(path: Path) -> None:
    """Make a folder and those around it; they may exist.

    Raises:
        UserError: it belongs into a folder that was deleted or moved while it is in use.
    """
    place = path.absolute()
    for witness, before in _kept.items():
        if place.is_relative_to(witness.parent) and not _is_still(witness, before):
            raise UserError(
                f"{witness.parent} was deleted or moved while it was in use; nothing more can be "
                "written there; move it back and resume, or start over"
            )
    path.mkdir(parents=True, exist_ok=True)


def _is_still(witness: Path, before: os.stat_result) -> bool:
    try:
        return os.path.samestat(witness.stat(), before)
    except FileNotFoundError:
        return False


def remove_unfinished(folder: Path) -> list[Path]:
    """Remove what killed processes have left unfinished in a folder, at any depth; return it."""
    found = [
        Path(place, name)
        for place, folders, files in os.walk(folder)
        for name in (*folders, *files)
        if (match := TEMPORARY.fullmatch(name)) and not runs(int(match[1]))
    ]
    for path in found:
        remove(path)
    return found


def remove_killed(target: Path) -> None:
    """Remove what killed processes of this machine have left beside a file or folder, of it."""
    for path in target.parent.glob(f".{escape(target.name)}*.unfinished"):
        match = TEMPORARY.fullmatch(path.name)
        if match and not runs(int(match[1])):
            remove(path)


def runs(pid: int) -> bool:
    """Return whether this machine has a process of that number."""
    try:
        os.kill(pid, 0)
    except (ProcessLookupError, OverflowError):
        return False
    except PermissionError:
        return True
    return True


def write_json(path: Path, value: Any) -> None:
    """Write `value` as indented JSON, atomically."""
    text = json.dumps(value, indent=1) + "\n"
    with atomic_path(path, needed=len(text)) as temporary:
        temporary.write_text(text)


def append_line(path: Path, value: Any) -> None:
    """Append one JSON line, after removing an incomplete one that a killed process left."""
    _make_way(path)
    cut_torn_line(path)
    append(path, json.dumps(value).encode() + b"\n")


def cut_torn_line(path: Path) -> None:
    """Remove an incomplete last line, so that the next one starts on a line of its own."""
    try:
        file = path.open("rb+")
    except FileNotFoundError:
        return
    with file:
        end = file.seek(0, os.SEEK_END)
        file.seek(max(end - 1, 0))
        if file.read(1) not in (b"\n", b""):
            file.truncate(path.read_bytes().rfind(b"\n") + 1)


def append(path: Path, content: bytes, *, durable: bool = False) -> None:
    """Append all of the content to a file, or nothing.

    durable: wait until it is on the disk.

    Raises:
        NotWritten: the disk is full; the file is as it was.
    """
    with writing(path, len(content)):
        make_folder(path.parent)
        with path.open("ab", buffering=0) as file:
            before = file.tell()
            try:
                rest = memoryview(content)
                while rest:
                    rest = rest[file.write(rest) :]
                if durable:
                    os.fsync(file.fileno())
            except OSError:
                file.truncate(before)
                raise
