"""The stored counts of a run's streamed shards, on which all ranks and resumed runs agree."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from nasvid.data.cache import ShardCache
from nasvid.data.counts import shard_counts
from nasvid.data.errors import DataError
from nasvid.data.urls import base_name
from nasvid.data.wids import ShardCount
from nasvid.errors import Damaged
from nasvid.host.files import write_json
from nasvid.host.reading import as_object, read_json
from nasvid.host.terminal import say
from nasvid.recipe.paths import is_url

FORMAT = 1


def stored_counts(
    path: Path,
    names: Sequence[str],
    cache: ShardCache,
    *,
    max_skipped: float = 1.0,
    progress: Callable[[], None] = lambda: None,
) -> list[ShardCount]:
    """Return the samples of shards as stored in `path`, after counting them if it does not exist.

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
        write_json(path, _plain(counts))
        kept.unlink(missing_ok=True)
        return counts
    counts = [
        ShardCount(name, count.samples, count.bytes, fault=count.fault, reached=count.reached)
        for name, count in zip(names, known, strict=False)
    ]
    if [base_name(count.shard) for count in known] != [*map(base_name, names)] or any(
        _is_changed(count) for count in counts
    ):
        raise DataError(
            f"The shards have changed since {path} was made; restore them, or start over in "
            "another folder"
        )
    return counts


def _is_changed(count: ShardCount) -> bool:
    """Return whether a local shard has another size than it had; a missing one is replaced."""
    if is_url(count.shard) or count.bytes is None:
        return False
    path = Path(count.shard)
    return path.is_file() and path.stat().st_size != count.bytes


def _plain(counts: Sequence[ShardCount]) -> dict[str, Any]:
    rows = [
        [count.shard, count.samples, count.bytes, count.fault, count.reached] for count in counts
    ]
    return {"format": FORMAT, "shards": rows}


def _read(value: Any) -> list[ShardCount]:
    about = as_object(value)
    if about["format"] != FORMAT:
        raise ValueError("it is of another version")
    return [
        ShardCount(str(shard), int(samples), size, fault=str(fault), reached=bool(reached))
        for shard, samples, size, fault, reached in about["shards"]
    ]
