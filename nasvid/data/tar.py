"""Reads a tar's members from its headers: names, offsets and sizes; nothing is unpacked."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from struct import Struct
from typing import BinaryIO
from zlib import adler32

BLOCK = 512
MAX_HEADER = 1 << 20
"""Most bytes of an extended header; a tar with more is considered damaged."""
MAX_EXTENSIONS = 16
"""Most extended headers of one member; a tar with more is considered damaged."""
NO_TAR = "not a tar"
ADLER = 65521
HEADER = Struct("100s24x12s12x8s1s100x6s82x155s12x")
"""Name, size, checksum, type flag, magic and prefix."""
LENGTH_DIGITS = 20
"""Most digits of a number in an extended header."""


class TarDamaged(Exception):
    """The tar ends early ("truncated shard") or has no valid header next ("damaged shard").

    A file without a valid header at its start is "not a tar".
    """


@dataclass(frozen=True, slots=True)
class Member:
    """A regular file inside a tar: its bytes are `size` bytes from `offset`.

    start: offset of its first header, which may be an extended one.
    """

    name: str
    offset: int
    size: int
    start: int

    @property
    def end(self) -> int:
        """Offset of what follows it in the tar."""
        return self.offset + -(-self.size // BLOCK) * BLOCK


def members(file: BinaryIO) -> Iterator[Member]:
    """Yield the regular files of an uncompressed tar (ustar, pax or GNU long names).

    A tar ends with blocks of zeros. Without them it was truncated, even if exactly between two
    members, which `tarfile` does not notice.

    Raises:
        TarDamaged: after the last whole member.
    """
    fd = file.fileno()
    end = os.fstat(fd).st_size
    return members_at(lambda size, offset: os.pread(fd, size, offset), lambda: end)


def members_at(
    read: Callable[[int, int], bytes], end: Callable[[], int | None]
) -> Iterator[Member]:
    """Yield the regular files of a tar that may be anywhere, as `members`.

    read: returns a number of bytes from an offset, fewer at the end; offsets only grow.
    end: returns the tar's size, or None as long as it is unknown: of its last member the header
    may be there without all of its bytes then.

    Raises:
        TarDamaged: as `members`.
    """
    if len(first := read(BLOCK, 0)) == BLOCK and not begins(first):
        raise TarDamaged(NO_TAR)
    offset, start, extended, extensions = 0, 0, {}, 0
    while not _is_end(header := read(BLOCK, offset)):
        name, size, kind = _parse(header)
        size = _decimal(extended["size"]) if "size" in extended else size
        body, offset = offset + BLOCK, offset + BLOCK + -(-size // BLOCK) * BLOCK
        if (known := end()) is not None and offset > known:
            raise TarDamaged("truncated shard")
        if kind in b"xL":
            extensions += 1
            if extensions > MAX_EXTENSIONS:
                raise TarDamaged("damaged shard")
            extended |= _extension(kind, read(min(size, MAX_HEADER + 1), body))
            continue
        if kind in b"0\0":
            yield Member(extended.get("path", name), body, size, start)
        start, extended, extensions = offset, {}, 0


def begins(start: bytes) -> bool:
    """Return whether a file's first `BLOCK` bytes begin a tar; those of an empty tar are zeros."""
    try:
        return _is_end(start) or bool(_parse(start))
    except TarDamaged:
        return False


def is_whole(path: Path) -> bool:
    """Return whether a tar is undamaged and complete."""
    with path.open("rb", buffering=0) as file:
        try:
            for _ in members(file):
                pass
        except TarDamaged:
            return False
    return True


def _is_end(header: bytes) -> bool:
    if len(header) < BLOCK:
        raise TarDamaged("truncated shard")
    return not header[0] and not any(header)


def _parse(header: bytes) -> tuple[str, int, bytes]:
    """Return name, size and type flag of a header (POSIX.1-2017, `ustar`)."""
    name, size, field, kind, magic, prefix = HEADER.unpack(header)
    # The checksum is the sum of all bytes, with blanks in its own field. Adler-32 starts from 1 and
    # has that sum modulo 65521 in its lower half, at a tenth of the time of sum().
    total = (adler32(header) & 0xFFFF) - 1 - sum(field) + 8 * ord(" ")
    if (total - _octal(field)) % ADLER:
        raise TarDamaged("damaged shard")
    path = _text(name)
    if prefix[0] and magic == b"ustar\0":
        path = b"/".join(part for part in (_text(prefix), path) if part)
    return path.decode("utf-8", "surrogateescape"), _octal(size), kind


def _text(field: bytes) -> bytes:
    return field.partition(b"\0")[0]


def _octal(field: bytes) -> int:
    """Read octal digits, or GNU's binary form for larger numbers."""
    if field[0] == 0x80:
        return int.from_bytes(field[1:])
    digits = _text(field).strip()
    if digits.strip(b"01234567"):
        raise TarDamaged("damaged shard")
    return int(digits or b"0", 8)


def _extension(kind: bytes, body: bytes) -> dict[str, str]:
    """Return an extended header's records about the next member: `LENGTH KEY=VALUE\\n`."""
    if len(body) > MAX_HEADER:
        raise TarDamaged("damaged shard")
    if kind == b"L":
        return {"path": _text(body).decode("utf-8", "surrogateescape")}
    records, at = {}, 0
    while at < len(body):
        space = body.find(b" ", at, at + LENGTH_DIGITS)
        end = at + _decimal(body[at : max(space, at)].decode("ascii", "replace"))
        key, equals, value = body[space + 1 : end - 1].partition(b"=")
        if not equals or not space < end <= len(body):
            raise TarDamaged("damaged shard")
        if key in (b"path", b"size"):
            records[key.decode()] = value.decode("utf-8", "surrogateescape")
        at = end
    return records


def _decimal(text: str) -> int:
    if not (text.isascii() and text.isdigit() and len(text) < LENGTH_DIGITS):
        raise TarDamaged("damaged shard")
    return int(text)
