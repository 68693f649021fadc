"""Files read back. Absent, damaged and unreadable are three different things.

Absent is what was never made. Damaged, `nasvid.errors.Damaged`, is what was, and is something else
now: whoever can make it again does. Any other error of the system is the caller's `OSError`, which
nothing here takes for one of the first two: a file that may not be read today is intact tomorrow.
"""

from __future__ import annotations

import fnmatch
import hashlib
import json
import os
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from functools import lru_cache
from pathlib import Path
from typing import Any, TypeVar

from nasvid.errors import Damaged, UserError
from nasvid.host.files import write_json

T = TypeVar("T")
SUMS = "sha256.json"
"""The checksums of a folder's files, stored next to them."""
AGAIN = "nasvid run makes it again"
"""How to mend most files of a run."""
MALFORMED = (
    ValueError,
    KeyError,
    TypeError,
    AttributeError,
    IndexError,
    OverflowError,
    RecursionError,
)
"""Errors raised when a value read is not in the form that was written."""


def read_json(path: Path, parse: Callable[[Any], T], fix: str = AGAIN) -> T | None:
    """Return what `parse` makes of a JSON file; None if there is no such file.

    fix: how to mend it, for the message.

    Raises:
        Damaged: it is not JSON, or `parse` has raised one of `MALFORMED`.
    """
    try:
        with damage(path, fix=fix):
            return parse(json.loads(path.read_bytes()))
    except FileNotFoundError:
        return None


@contextmanager
def damage(path: Path, *more: type[Exception], fix: str = AGAIN) -> Iterator[None]:
    """Turn what reading a malformed file raises, `MALFORMED` and `more`, into Damaged.

    An error of the system stays what it is, and names the file.
    """
    try:
        with named(path):
            yield
    except UserError:
        raise
    except IsADirectoryError:
        raise Damaged(path, "it is a folder", fix) from None
    except (*MALFORMED, *more) as error:
        raise Damaged(path, _reason(path, error), fix) from error


@contextmanager
def named(path: Path) -> Iterator[None]:
    """Give an error of the system the name of the file; one of reading, not opening, has none."""
    try:
        yield
    except OSError as error:
        if error.filename is None:
            error.filename = str(path)
        raise


def _reason(path: Path, error: Exception) -> str:
    if path.stat().st_size == 0:
        return "it is empty"
    if isinstance(error, json.JSONDecodeError):
        return f"not JSON: {error}"
    if isinstance(error, UnicodeDecodeError):
        return f"not text: {error.reason} at byte {error.start}"
    if isinstance(error, KeyError):
        return f"it has no {error}"
    return " ".join(f"{error}".split()) or type(error).__name__


def as_object(value: Any) -> dict[str, Any]:
    """Return a JSON object.

    Raises:
        TypeError: it is something else.
    """
    if not isinstance(value, dict):
        raise TypeError(f"a {type(value).__name__} in place of an object")
    return value


def as_list(value: Any) -> list[Any]:
    """Return a JSON array.

    Raises:
        TypeError: it is something else.
    """
    if not isinstance(value, list):
        raise TypeError(f"a {type(value).__name__} in place of an array")
    return value


def as_number(value: Any) -> float:
    """Return a JSON number.

    Raises:
        TypeError: it is something else.
    """
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise TypeError(f"{json.dumps(value)[:40]} in place of a number")
    return value


def as_text(value: Any) -> str:
    """Return a JSON string.

    Raises:
        TypeError: it is something else.
    """
    if not isinstance(value, str):
        raise TypeError(f"{json.dumps(value)[:40]} in place of a text")
    return value


def read_lines(path: Path, parse: Callable[[Any], T]) -> tuple[list[T], int]:
    """Return what `parse` makes of each line of a log, and how many lines are damaged.

    An incomplete last line was left by a kill and does not count; no file is an empty log.

    Raises:
        Damaged: it is a folder.
    """
    found: list[T] = []
    damaged = each_line(path, lambda value: found.append(parse(value)))
    return found, damaged


def each_line(path: Path, take: Callable[[Any], None]) -> int:
    """Pass each line of a log to `take`, as `read_lines`; return how many lines are damaged.

    Only one line is in memory at a time. take: raises one of `MALFORMED` for a damaged line, which
    must have no other effect.

    Raises:
        Damaged: it is a folder.
    """
    damaged = 0
    try:
        with damage(path), path.open("rb") as file:
            for line in file:
                try:
                    if line.endswith(b"\n"):
                        take(json.loads(line))
                except MALFORMED:
                    damaged += 1
    except FileNotFoundError:
        return 0
    return damaged


def found_in(folder: Path, pattern: str) -> list[Path]:
    """Return what a folder holds whose names match, in order; [] if there is no such folder.

    `Path.glob` takes a folder that may not be read for an empty one.
    """
    try:
        names = os.listdir(folder)
    except FileNotFoundError:
        return []
    return sorted(folder / name for name in names if fnmatch.fnmatchcase(name, pattern))


def write_sums(folder: Path) -> None:
    """Write the checksums of all files in a folder, at any depth, beside them."""
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    write_json(folder / SUMS, {str(path.relative_to(folder)): sha256(path) for path in files})


def check_sums(folder: Path) -> None:
    """Check a folder whose checksums `write_sums` has written.

    Raises:
        Damaged: a file has changed or is missing.
    """
    sums = read_json(folder / SUMS, as_object)
    if sums is None:
        raise Damaged(folder / SUMS, "it is missing")
    check_files(folder, sums)


def check_files(folder: Path, sums: Mapping[str, str]) -> None:
    """Check files in a folder against their checksums.

    Raises:
        Damaged: one has changed, is missing, or lies elsewhere.
    """
    for name, expected in sums.items():
        path = folder / name
        if Path(name).is_absolute() or ".." in Path(name).parts:
            raise Damaged(path, "it is not in the folder whose checksums name it")
        try:
            found = sha256(path)
        except (FileNotFoundError, NotADirectoryError):
            raise Damaged(path, "it is missing") from None
        except IsADirectoryError:
            raise Damaged(path, "it is a folder") from None
        if found != expected:
            raise Damaged(path, "its checksum is another")


def sha256(path: Path) -> str:
    """Return the hash of a file; one that this process has hashed or just written is not reread.

    It is known by what a rename keeps and a change does not.
    """
    identity = _identity(path)
    if identity not in _hashed:
        with named(path), open(path, "rb") as file:
            _hashed[identity] = hashlib.file_digest(file, "sha256").hexdigest()
    return _hashed[identity]


def note_written(path: Path, digest: str) -> None:
    """Take the hash of what was just written for that of its file, which is then not read."""
    _hashed[_identity(path)] = digest


def same_content(path: Path, other: Path) -> None:
    """Let a file have another's hash without being read."""
    _hashed[_identity(path)] = sha256(other)


def note_hashes(note: Path, files: Iterable[Path]) -> None:
    """Add the hashes of files to a note, so that a later process need not read them."""
    known = _noted(note)
    now = known | {_identity(path): sha256(path) for path in files}
    if now != known:
        write_json(note, now)


def recall_hashes(note: Path) -> None:
    """Take over the hashes that `note_hashes` wrote; a file that has changed since is read."""
    _hashed.update(_noted(note))


def _noted(note: Path) -> dict[str, str]:
    try:
        return read_json(note, as_object) or {}
    except Damaged:
        return {}  # files are read instead


def _identity(path: Path) -> str:
    stat = path.stat()
    return f"{stat.st_dev} {stat.st_ino} {stat.st_size} {stat.st_mtime_ns}"


_hashed: dict[str, str] = {}


def fingerprint(folder: Path) -> str:
    """Return a short hash of the files directly inside a folder: names, sizes and contents.

    Of large files (gigabytes of weights) only blocks spread over the whole are read: enough to tell
    models apart, not to prove that no byte was altered.
    """
    digest = hashlib.sha256()
    for path in sorted(entry for entry in folder.iterdir() if entry.is_file()):
        stat = path.stat()
        digest.update(_fingerprint(path, stat.st_size, stat.st_mtime_ns).encode())
    return digest.hexdigest()[:12]


@lru_cache(maxsize=256)
def _fingerprint(path: Path, size: int, modified: int) -> str:
    del modified  # part of the cache key: a file that was rewritten is read again
    return sampled_hash(path, size, block=1 << 16, blocks=64)


def sampled_hash(path: Path, size: int, *, block: int, blocks: int) -> str:
    """Return a hash of a file's name, size and some blocks spread over it, to tell files apart.

    block: bytes of each. blocks: how many; of a file that has fewer, all is read.
    """
    digest = hashlib.sha256(f"{path.name}\0{size}\0".encode())
    last = max(size - block, 0)
    starts = range(0, last + 1, max(last // (blocks - 1), block))
    with named(path), path.open("rb") as file:
        for start in (*starts, last):
            file.seek(start)
            digest.update(file.read(block))
    return digest.hexdigest()
