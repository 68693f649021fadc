"""The stored counts of a run's streamed shards, on which all ranks and resumed runs agree."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from nasvid.data.cache import ShardCache
from nasvid.data.counts import shard_counts
from nasvid.data.errors import DataError
from nasvid.data.urls import base_name
from nasvid.data.wids import ShardCount
from nasvid.errors import Damaged
from nasvid.host.files import write_json
from nasvid.host.reading import as_object, read_json, sampled_hash
from nasvid.host.terminal import say
from nasvid.recipe.paths import is_url

FORMAT = 2
BLOCK, BLOCKS = 4096, 8
"""What is read of a local shard to know it again: bytes of a block, and how many blocks."""
TOGETHER = 16
"""Number of shards that are read at a time."""


@dataclass(frozen=True, slots=True)
class _Stored:
    """What is stored of a shard.

    modified: a local one's time in nanoseconds. content: a hash of some blocks of it; "" of a
    remote one, and of one that was not there.
    """

    count: ShardCount
    modified: int = 0
    content: str = ""

    @classmethod
    def of(cls, count: ShardCount) -> _Stored:
        path = Path(count.shard)
        if is_url(count.shard) or not path.is_file():
            return cls(count)
        stat = path.stat()
        return cls(count, stat.st_mtime_ns, _content(path, stat.st_size))

    def is_changed(self, shard: str) -> bool:
        """Return whether a local shard is another than it was; one that is missing is not.

        shard: where it is now.
        """
        path = Path(shard)
        if is_url(shard) or self.count.bytes is None or not path.is_file():
            return False
        stat = path.stat()
        if stat.st_size != self.count.bytes:
            return True
        is_same = not self.content or stat.st_mtime_ns == self.modified
        return not is_same and _content(path, stat.st_size) != self.content


def _content(path: Path, size: int) -> str:
    try:
        return sampled_hash(path, size, block=BLOCK, blocks=BLOCKS)
    except OSError as error:
        raise DataError(f"{path} cannot be read: {error.strerror}") from error


def stored_counts(
    path: Path,
    names: Sequence[str],
    cache: ShardCache,
    *,
    max_skipped: float = 1.0,
    progress: Callable[[], None] = lambda: None,
) -> list[ShardCount]:
    """Return the samples of shards as stored in `path`, after counting them if it does not exist.

    A local shard that has another size or another time than it had is compared, by a few blocks; a
    remote one is not.

    Raises:
        DataError: the shards have changed since, or cannot be counted (see `shard_counts`).
    """
    try:
        known = read_json(path, _read)
    except Damaged as damaged:
        say(f"{path} is damaged ({damaged.reason}) and made again from the shards")
        known = None
    if known is None:
        kept = path.with_name("train.counts.jsonl")
        counts = shard_counts(
            names, cache=cache, kept=kept, max_skipped=max_skipped, progress=progress
        )
        with ThreadPoolExecutor(TOGETHER) as pool:
            write_json(path, _plain([*pool.map(_Stored.of, counts)]))
        kept.unlink(missing_ok=True)
        return counts
    then = [base_name(each.count.shard) for each in known]
    again = "or start over in another folder"
    if then != [*map(base_name, names)]:
        raise DataError(f"These are not the shards of {path}; name those, {again}")
    with ThreadPoolExecutor(TOGETHER) as pool:
        for name, is_changed in zip(names, pool.map(_Stored.is_changed, known, names), strict=True):
            if is_changed:
                raise DataError(f"{name} has changed since {path} was made; restore it, {again}")
    return [replace(each.count, shard=name) for each, name in zip(known, names, strict=True)]


def _plain(shards: Sequence[_Stored]) -> dict[str, Any]:
    rows = []
    for each in shards:
        count = each.count
        what = [count.shard, count.samples, count.bytes, count.fault, count.reached]
        rows.append([*what, each.modified, each.content])
    return {"format": FORMAT, "shards": rows}


def _read(value: Any) -> list[_Stored]:
    about = as_object(value)
    if about["format"] != FORMAT:
        raise ValueError("it is of another version")
    return [
        _Stored(
            ShardCount(str(shard), int(samples), size, fault=str(fault), reached=bool(reached)),
            int(modified),
            str(content),
        )
        for shard, samples, size, fault, reached, modified, content in about["shards"]
    ]
