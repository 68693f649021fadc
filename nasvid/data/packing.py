"""Shards in the making, in a folder from which a later process resumes; whole at their place.

The folder is `.NAME.packing`, in the place of the shards if that exists, because a mount point, a
link or the current folder cannot be replaced, and beside it otherwise. It holds `shards/` and
`packed.jsonl`: a line with what the shards are made from and how, one for each shard that is on the
disk, and one when they are complete and being moved.
"""

from __future__ import annotations

import hashlib
import io
import json
import os
import re
import shutil
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from webdataset.writer import TarWriter

from nasvid.data.errors import DataError
from nasvid.data.paths import SPLITS
from nasvid.data.wids import INDEX, ShardCount, write_index
from nasvid.host.files import (
    NotWritten,
    append,
    atomic_path,
    cut_torn_line,
    remove,
    sync_all,
    writing,
)
from nasvid.host.lock import locked
from nasvid.host.reading import as_object, each_line

if TYPE_CHECKING:
    from _typeshed import ReadableBuffer as Buffer

LOG = "packed.jsonl"
MAX_BYTES = 3 * 10**9
"""Bytes of clips and captions after which a shard ends, however few they are."""
Sample = dict[str, Any]


@contextmanager
def packing(out: Path, made_from: str, needed: int) -> Iterator[Packing]:
    """Yield the unfinished shards of a folder, which no other process writes in the meantime.

    made_from: identifies what goes into them, and how.
    needed: about how many bytes they take; 0 if unknown.

    Raises:
        DataError: something else is in the folder, or unfinished shards are made from something
            else. UserError: another process packs into it.
        NotWritten: the disk is full; shards that are whole are kept.
    """
    place, work = _place(out), None
    try:
        with writing(out, needed), locked(place):
            work = Packing(place, out, made_from)
            try:
                yield work
            finally:
                if not work.has_shards and place.exists():
                    work.discard()
    except NotWritten as full:
        if work is None or not work.has_shards:
            raise
        kept = f"what is packed is kept in {place}, and the same command resumes"
        raise NotWritten(full.path, full.reason, f"{full.room}; {kept}", full.needed) from full


def content(folder: Path) -> Iterator[Path]:
    """Yield a folder's content except unfinished shards and the file system's own entries."""
    if folder.is_dir():
        for path in folder.iterdir():
            if path.name != "lost+found" and not re.fullmatch(r"\..+\.packing", path.name):
                yield path


def not_empty(out: Path) -> DataError:
    """Return the error of a folder that is not free."""
    return DataError(f"{out} is not an empty folder; remove it or choose another")


def is_begun(out: Path) -> bool:
    """Return whether there are unfinished shards for a folder."""
    return _place(out).exists()


def _place(out: Path) -> Path:
    name = f".{out.resolve().name}.packing"
    beside = out.absolute().parent / name
    return beside if beside.exists() or not out.exists() else out / name


@dataclass(frozen=True, slots=True)
class Packed:
    """A shard that is on the disk.

    split: "" if there is one. after: the number in its split of the first clip that is not in it.
    samples: 0 if all clips that were left could not be used; there is no such file then.
    skipped: those that could not, as (reason, name).
    """

    split: str
    number: int
    after: int
    samples: int
    bytes: int
    md5: str
    skipped: tuple[tuple[str, str], ...]

    @property
    def name(self) -> str:
        """The file's name."""
        return f"{self.number:06d}.tar"

    @classmethod
    def from_json(cls, value: dict[str, Any]) -> Packed:
        """Return a shard from its line."""
        skipped = tuple((reason, name) for reason, name in value.pop("skipped"))
        return cls(**value, skipped=skipped)


class Packing:
    """Unfinished shards, of which some may be from an earlier process.

    place: the folder that they are in. out: where they go.
    """

    def __init__(self, place: Path, out: Path, made_from: str) -> None:
        self._place, self._out, self._shards = place, out, place / "shards"
        self._packed: dict[tuple[str, int], Packed] = {}
        self.complete, known = False, ""

        def take(value: Any) -> None:
            nonlocal known
            line = as_object(value)
            if "made_from" in line:
                known = line["made_from"]
            elif "complete" in line:
                self.complete = True
            else:
                shard = Packed.from_json(line)
                self._packed[shard.split, shard.number] = shard

        cut_torn_line(place / LOG)
        each_line(place / LOG, take)
        if known != made_from:
            self._start(made_from)
        self._check_place()

    def _start(self, made_from: str) -> None:
        if self.has_shards:
            raise DataError(
                f"{self._place} holds what an unfinished pack has made from other videos, captions "
                "or options; repeat its command, or remove that folder to start over"
            )
        shutil.rmtree(self._shards, ignore_errors=True)
        (self._place / LOG).unlink(missing_ok=True)
        self._note({"made_from": made_from})

    def _note(self, line: dict[str, Any]) -> None:
        append(self._place / LOG, json.dumps(line).encode() + b"\n", durable=True)

    @property
    def has_shards(self) -> bool:
        """Whether any shard is whole."""
        return any(shard.samples for shard in self._packed.values())

    def shards(self, split: str) -> list[Packed]:
        """Return the first shards of a split, up to one that is missing."""
        found: list[Packed] = []
        while (shard := self._packed.get((split, len(found)))) and (
            self.complete or self._is_there(shard)
        ):
            found.append(shard)
        return found

    def _is_there(self, shard: Packed) -> bool:
        with suppress(FileNotFoundError):
            return self._path(shard).stat().st_size == shard.bytes
        return not shard.samples

    def _path(self, shard: Packed) -> Path:
        return self._shards / shard.split / shard.name

    def write(
        self,
        split: str,
        number: int,
        samples: Iterator[tuple[int, str, Sample | str]],
        shard_size: int,
    ) -> Packed:
        """Write a shard of a split, whole or not at all.

        samples: number and name of each clip that is left, of which there is one at least, and its
        sample or why it cannot be used. shard_size: how many samples are taken at most.
        """
        after, skipped = 0, list[tuple[str, str]]()
        taken = size = 0
        path = self._shards / split / f"{number:06d}.tar"
        with atomic_path(path) as temporary:
            hashed = _Hashed(temporary)
            with io.BufferedWriter(hashed) as file, TarWriter(file, mtime=0) as shard:
                for place, name, sample in samples:
                    after = place + 1
                    if isinstance(sample, str):
                        skipped.append((sample, name))
                        continue
                    size, taken = size + shard.write(sample), taken + 1
                    if taken == shard_size or size >= MAX_BYTES:
                        break
            length = temporary.stat().st_size
        if not taken:
            path.unlink()
        md5 = hashed.md5.hexdigest()
        packed = Packed(split, number, after, taken, length, md5, tuple(skipped))
        self._note(asdict(packed))
        self._packed[split, number] = packed
        return packed

    def _check_place(self) -> None:
        """Check that nothing is in the place of the shards but those that were moved there.

        Raises:
            DataError: it is.
        """
        own = {shard.name for shard in self._packed.values()} | {INDEX, *SPLITS}
        for path in content(self._out):
            if not self.complete or path.name not in own:
                if not self.has_shards:
                    self.discard()
                raise not_empty(self._out)

    def finish(self, splits: Iterable[str]) -> None:
        """Write the indexes and move all to its place."""
        if not self.complete:
            for split in splits:
                counts = [
                    ShardCount(shard.name, shard.samples, shard.bytes, shard.md5)
                    for shard in self.shards(split)
                    if shard.samples
                ]
                write_index(self._shards / split, counts)
            sync_all(self._shards)
            self._note({"complete": True})
            self.complete = True
        if self._shards.is_dir():
            self._move()

    def discard(self) -> None:
        """Remove all that is unfinished, the log at last: with it a process can resume."""
        for path in sorted(self._place.iterdir(), key=lambda path: path.name == LOG):
            remove(path)
        self._place.rmdir()

    def _move(self) -> None:
        if not self._out.exists():
            os.replace(self._shards, self._out)
            return
        for path in sorted(self._shards.rglob("*")):
            if not path.is_dir():
                target = self._out / path.relative_to(self._shards)
                target.parent.mkdir(exist_ok=True)
                os.replace(path, target)


class _Hashed(io.FileIO):
    """A file whose MD5 is known when it is written."""

    def __init__(self, path: Path) -> None:
        super().__init__(path, "wb")
        self.md5 = hashlib.md5(usedforsecurity=False)

    def write(self, b: Buffer, /) -> int:
        written = super().write(b)
        self.md5.update(memoryview(b)[:written])
        return written
