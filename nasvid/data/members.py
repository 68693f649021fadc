"""Reads single samples of a shard as WebDataset does: its tar iteration, its grouping by key.

A shard may come from anyone. WebDataset sees only the two members of a sample that are read, and
only after their sizes are checked: nothing is unpacked, decompressed, unpickled or executed.
"""

from __future__ import annotations

import os
import tarfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from io import BytesIO
from itertools import islice
from typing import BinaryIO

from webdataset.handlers import reraise_exception
from webdataset.tariterators import base_plus_ext, group_by_keys, tar_file_expander

from nasvid.data.counts import META
from nasvid.data.errors import ClipError
from nasvid.data.samples import Content, caption_in, key_and_kind, parts_of
from nasvid.data.tar import BLOCK, Member, TarDamaged, members

MAX_SAMPLE = 1 << 30
"""Largest video of a streamed sample in bytes, which is in memory whole."""
MOST_PARTS = 16
"""Most members of a sample that are remembered; one that has more is not a clip anyway."""
SPARSE = b"GNU.sparse."
"""What an extended header has for a file with holes, whose size is a mere claim."""
_START = tarfile.TarInfo("__start__").tobuf()
"""A first member that is skipped. It keeps the first name of a shard from being taken for the magic
number of a compressed file."""
_END = bytes(2 * BLOCK)


@dataclass(frozen=True, slots=True)
class Sample:
    """A sample's key and members, of which only those that may be read are remembered."""

    key: str
    parts: list[Member]


@dataclass(frozen=True, slots=True)
class Contents:
    """The samples of an open shard, in WebDataset's order.

    damage: why there may be fewer than there should be; "" if nothing is wrong.
    """

    samples: list[Sample]
    damage: str

    @classmethod
    def of(cls, file: BinaryIO, most: int) -> Contents:
        """Find the first `most` samples of a shard from its headers."""
        damage = ""

        def found() -> Iterator[Member]:
            nonlocal damage
            try:
                yield from members(file)
            except TarDamaged as error:
                damage = str(error)

        return cls(list(islice(_grouped(found()), most)), damage)


def _grouped(found: Iterator[Member]) -> Iterator[Sample]:
    sample = None
    for member in found:
        key, _ = base_plus_ext(member.name)
        if key is None or META.match(member.name):
            continue
        if sample is None or key != sample.key:
            if sample is not None:
                yield sample
            sample = Sample(key, [])
        if key_and_kind(member.name)[1] and len(sample.parts) < MOST_PARTS:
            sample.parts.append(member)
    if sample is not None:
        yield sample


def read_content(shard: str, file: BinaryIO, sample: Sample) -> Content:
    """Read a sample of an open shard.

    Raises:
        ClipError: it is no clip, or damaged. OSError: the system cannot read it.
    """
    kinds: dict[str, list[Member]] = {}
    for part in sample.parts:
        kinds.setdefault(key_and_kind(part.name)[1], []).append(part)
    video, text = parts_of(kinds)
    if video.size > MAX_SAMPLE:
        raise ClipError("too large")
    pieces = [_piece(file, part) for part in sorted((video, text), key=lambda part: part.start)]
    source = {"url": shard, "stream": BytesIO(b"".join([_START, *pieces, _END]))}
    try:
        files = tar_file_expander(
            [source], handler=reraise_exception, select_files=_named(video, text)
        )
        (read,) = group_by_keys(files, handler=reraise_exception)
        return Content(read[_suffix(video)], caption_in(text.name, read[_suffix(text)]))
    except (tarfile.TarError, ValueError, KeyError) as error:
        if isinstance(error, ClipError):
            raise
        raise ClipError("damaged shard") from error


def _piece(file: BinaryIO, part: Member) -> bytes:
    """Return a member with its headers.

    Raises:
        ClipError: the shard has become shorter, or the member claims to have holes.
    """
    piece = os.pread(file.fileno(), part.end - part.start, part.start)
    if len(piece) < part.end - part.start:
        raise ClipError("truncated shard")
    if SPARSE in piece[: part.offset - part.start]:
        raise ClipError("damaged shard")
    return piece


def _named(*parts: Member) -> Callable[[str], bool]:
    names = {part.name for part in parts}
    return lambda name: name in names


def _suffix(part: Member) -> str:
    _, suffix = base_plus_ext(part.name)
    return (suffix or "").lower()
