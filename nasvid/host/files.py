"""Files that are either complete or absent, and logs that survive a killed process."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from functools import lru_cache
from pathlib import Path
from typing import Any


@contextmanager
def atomic_path(path: Path) -> Iterator[Path]:
    """Yield a temporary path beside `path`; on success it becomes `path`, on error it is removed.

    A process killed in between leaves at most a file whose name starts with a dot.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        yield temporary
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def write_json(path: Path, value: Any) -> None:
    """Write `value` as indented JSON, atomically."""
    with atomic_path(path) as temporary:
        temporary.write_text(json.dumps(value, indent=1) + "\n")


def append_line(path: Path, value: Any) -> None:
    """Append one JSON line, after removing an incomplete one that a killed process left."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with open(path, "ab+") as file:
        end = file.seek(0, os.SEEK_END)
        if end:
            file.seek(end - 1)
            if file.read(1) != b"\n":
                file.truncate(_last_newline(path) + 1)
        file.write(json.dumps(value).encode() + b"\n")


def _last_newline(path: Path) -> int:
    return path.read_bytes().rfind(b"\n")


def read_lines(path: Path) -> list[Any]:
    """Return the values in a file of JSON lines, without an incomplete last one; [] if absent."""
    if not path.exists():
        return []
    text = path.read_bytes()
    return [json.loads(line) for line in text[: text.rfind(b"\n") + 1].splitlines()]


SAMPLED, BLOCKS = 1 << 16, 64
"""Bytes per block, and the number of blocks that a large file's fingerprint reads."""


def fingerprint(folder: Path) -> str:
    """Return a short hash of the files directly inside a folder: names, sizes and contents.

    Of large files (gigabytes of weights), only blocks spread over the file are read: enough to tell
    models apart, but not to prove that no byte was changed.
    """
    digest = hashlib.sha256()
    for path in sorted(entry for entry in folder.iterdir() if entry.is_file()):
        stat = path.stat()
        digest.update(_fingerprint(path, stat.st_size, stat.st_mtime_ns).encode())
    return digest.hexdigest()[:12]


@lru_cache(maxsize=256)
def _fingerprint(path: Path, size: int, modified: int) -> str:
    del modified  # part of the cache key: a file that was rewritten is read again
    digest = hashlib.sha256(f"{path.name}\0{size}\0".encode())
    last = max(size - SAMPLED, 0)
    starts = range(0, last + 1, max(last // (BLOCKS - 1), SAMPLED))
    with path.open("rb") as file:
        for start in (*starts, last):
            file.seek(start)
            digest.update(file.read(SAMPLED))
    return digest.hexdigest()
