"""How many samples shards have: from their index, or else learnt from their headers, once."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from torch.utils.data import Dataset

from nasvid.data.cache import ShardCache
from nasvid.data.cancel import Flag
from nasvid.data.errors import DataError
from nasvid.data.fetch import FetchError, retried
from nasvid.data.ranges import NoRanges, RemoteFile, RemoteStream
from nasvid.data.shards import check_lost, no_tars
from nasvid.data.tar import NO_TAR, TarDamaged, members_at
from nasvid.data.urls import check_url
from nasvid.data.wids import ShardCount, index_place, indexed_counts
from nasvid.data.workers import run_workers
from nasvid.errors import UserError
from nasvid.host.files import append, cut_torn_line
from nasvid.host.machine import usable_cores
from nasvid.host.reading import as_number, as_text, each_line
from nasvid.recipe.paths import is_url

TOGETHER = 16
"""Number of shards whose headers a process reads at a time."""
FEW = 4
"""Groups of so many shards for which no processes are started."""
MOST_PROCESSES = 8
KEY = re.compile(r"((?:.*/|)[^.]+)[.][^/]*$")
"""The key of a member's sample, as in `webdataset.tariterators.base_plus_ext`."""
META = re.compile(r"__[^/]*__($|/)")
"""Names of members that belong to no sample, for WebDataset."""
_Stamp = tuple[int | None, int]


def shard_counts(
    names: Sequence[str],
    *,
    cache: ShardCache,
    kept: Path | None = None,
    max_skipped: float = 1.0,
    progress: Callable[[], None] = lambda: None,
) -> list[ShardCount]:
    """Return how many samples each shard has, in order.

    The index beside the shards says so (`nasvid.data.wids`). Without one, the headers of the tar
    are read: of a local shard, and of one that is in the cache, by seeking; of one on the web by
    range requests; of all others by receiving them whole, without keeping them. Several are read at
    a time, by several processes if there are many.

    names: paths and addresses, as `shard_names` returns them. cache: has the retries, whether pipes
    may run, and shards that were fetched. kept: file of what was learnt from headers, which is not
    learnt again as long as a local shard keeps its size and time; one process at a time may write
    it. max_skipped: the largest share of the shards that may be out of reach. progress: called
    after each shard that is read.

    Raises:
        DataError: an index is wrong, a local shard is missing, too many cannot be reached, or none
            is a tar.
    """
    counts: dict[str, ShardCount] = {}
    for place, shards in _by_index(names).items():
        found = indexed_counts(place, shards, retries=cache.retries) if place else None
        counts.update((count.shard, count) for count in found or ())
    known = _load(kept) if kept else {}
    stamps = {name: _stamp(name) for name in names if name not in counts}
    rest = []
    for name, stamp in stamps.items():
        count, before = known.get(name, (None, None))
        if count is not None and (is_url(name) or before == stamp):
            counts[name] = count
        else:
            rest.append(name)
    lost: list[tuple[str, str]] = []
    for number, count in enumerate(_learnt(rest, cache), 1):
        counts[count.shard] = count
        if not count.reached:
            lost.append((count.shard, count.fault))
            check_lost(lost, number, len(names), max_skipped)
        elif kept:
            _keep(kept, count, stamps[count.shard])
        progress()
    _check_tars(counts)
    return [counts[name] for name in names]


def count_samples(names: Iterable[str]) -> int:
    """Return how many samples members of these names are for WebDataset."""
    samples, before = 0, None
    for name in names:
        found = KEY.match(name)
        if found and found[1] != before and not (name[:2] == "__" and META.match(name)):
            samples, before = samples + 1, found[1]
    return samples


def _by_index(names: Iterable[str]) -> dict[str | None, list[str]]:
    """Return the places of indexes, with the shards that each should have."""
    places: dict[str | None, list[str]] = {}
    for name in names:
        places.setdefault(index_place(name), []).append(name)
    return places


def _learnt(names: Sequence[str], cache: ShardCache) -> Iterator[ShardCount]:
    """Yield the counts of shards as they are learnt, by several processes if there are many."""
    groups = [names[at : at + TOGETHER] for at in range(0, len(names), TOGETHER)]
    processes = min(usable_cores(), MOST_PROCESSES) if len(groups) > FEW else 0
    with closing(run_workers(_Counts(groups, cache), range(len(groups)), processes)) as counted:
        for counts in counted:
            yield from counts


@dataclass(frozen=True, slots=True)
class _Counts(Dataset[Any]):
    """Maps the number of a group of shards to their counts, which are learnt at a time."""

    groups: Sequence[Sequence[str]]
    cache: ShardCache

    def __getitem__(self, number: int) -> list[ShardCount] | UserError:
        cancelled = Flag()
        with ThreadPoolExecutor(TOGETHER) as pool:
            group = [pool.submit(_count, n, self.cache, cancelled) for n in self.groups[number]]
            try:
                return [each.result() for each in group]
            except UserError as error:
                return error
            finally:
                cancelled.set()
                pool.shutdown(cancel_futures=True)


def _count(name: str, cache: ShardCache, cancelled: Flag) -> ShardCount:
    path = cache.place(name)
    try:
        return file_count(path, name)
    except FileNotFoundError as error:
        if not is_url(name):
            raise DataError(f"Shard {name} does not exist any more") from error
    except OSError as error:
        raise DataError(f"{path} cannot be read: {error.strerror}") from error
    check_url(name, allow_pipes=cache.allow_pipes)
    try:
        try:
            file = RemoteFile(name, retries=cache.retries, cancelled=cancelled)
            return _of(name, file.read, lambda: file.size)
        except NoRanges:
            return retried(lambda last: _of_stream(name, cancelled), cache.retries, cancelled)
    except FetchError as error:
        return ShardCount(name, 0, fault=str(error), reached=False)


def file_count(path: Path, shard: str = "") -> ShardCount:
    """Return how many samples the tar at a path has. shard: its name in the count."""
    with path.open("rb", buffering=0) as file:
        fd = file.fileno()
        size = os.fstat(fd).st_size
        return _of(
            shard or str(path), lambda size, offset: os.pread(fd, size, offset), lambda: size
        )


def _of_stream(name: str, cancelled: Flag) -> ShardCount:
    with closing(RemoteStream(name, cancelled)) as stream:
        return replace(_of(name, stream.read, lambda: stream.size), bytes=stream.end())


def _of(name: str, read: Callable[[int, int], bytes], size: Callable[[], int | None]) -> ShardCount:
    fault = ""

    def member_names() -> Iterator[str]:
        nonlocal fault
        try:
            for member in members_at(read, size):
                yield member.name
        except TarDamaged as damage:
            fault = str(damage)

    samples = count_samples(member_names())
    return ShardCount(name, samples, size(), fault=fault)


def _check_tars(counts: Mapping[str, ShardCount]) -> None:
    reached = [count for count in counts.values() if count.reached]
    if reached and all(count.fault == NO_TAR for count in reached):
        raise no_tars([count.shard for count in reached])


def _stamp(name: str) -> _Stamp:
    """Return size and time of a local shard; a remote one has none."""
    if is_url(name):
        return None, 0
    try:
        stat = Path(name).stat()
    except FileNotFoundError:
        raise DataError(f"Shard {name} does not exist") from None
    return stat.st_size, stat.st_mtime_ns


def _keep(path: Path, count: ShardCount, stamp: _Stamp) -> None:
    line = [count.shard, count.samples, count.bytes, count.fault, stamp[1]]
    append(path, json.dumps(line).encode() + b"\n")


def _load(path: Path) -> dict[str, tuple[ShardCount, _Stamp]]:
    """Return what is kept in a file; damaged lines are learnt again."""
    known: dict[str, tuple[ShardCount, _Stamp]] = {}

    def take(value: Any) -> None:
        shard, samples, size, fault, modified = value
        size = None if size is None else int(as_number(size))
        count = ShardCount(as_text(shard), int(as_number(samples)), size, fault=as_text(fault))
        known[shard] = count, (size, int(as_number(modified)))

    each_line(path, take)
    cut_torn_line(path)
    return known
