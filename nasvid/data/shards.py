"""An index of the clips in WebDataset shards, made without decoding any."""

from __future__ import annotations

import hashlib
from collections import Counter, deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from nasvid.data.cache import ShardCache
from nasvid.data.cancel import Flag
from nasvid.data.errors import DataError
from nasvid.data.fetch import FetchError
from nasvid.data.paths import Split, shard_names
from nasvid.data.samples import UNREACHABLE, ClipRef, ShardContent, Skip, read_shard
from nasvid.data.tar import NO_TAR
from nasvid.data.urls import base_name
from nasvid.recipe.paths import is_url
from nasvid.shapes import Resolution

FETCHED_AT_ONCE = 8
"""Number of shards fetched at a time while an index is made."""


@dataclass(frozen=True, slots=True)
class ShardIndex:
    """The usable clips of some shards, in their order.

    shards: paths and addresses. ignored: members that are no part of a sample. fingerprint:
    sha256 of the shards' names and sizes and of the clips' keys and captions. bytes: of the shards.
    cache: where remote shards are; None if there are none. buckets: resolutions among which clips
    are shared by their shapes; () if each takes any.
    """

    shards: tuple[str, ...]
    clips: tuple[ClipRef, ...]
    skipped: tuple[Skip, ...]
    ignored: int
    fingerprint: str
    bytes: int = 0
    cache: ShardCache | None = None
    buckets: tuple[Resolution, ...] = ()

    def reasons(self) -> dict[str, int]:
        """Return how many samples were skipped for each reason, most frequent first."""
        return dict(Counter(skip.reason for skip in self.skipped).most_common())

    def left_out(self) -> str:
        """Return these counts as text: `3 no caption, 1 truncated shard`."""
        return ", ".join(f"{number} {reason}" for reason, number in self.reasons().items())

    @property
    def samples(self) -> int:
        """How many samples are usable."""
        return len(self.clips)

    @property
    def unusable(self) -> int:
        """How many samples are not usable.

        A shard that could not be fetched counts as the mean number of samples of the others.
        """
        lost = sum(skip.reason == UNREACHABLE for skip in self.skipped)
        known = len(self.skipped) - lost
        reached = len(self.shards) - lost
        return known + (round(lost * (len(self.clips) + known) / reached) if reached else lost)


def index_shards(
    spec: str | list[str],
    base: Path,
    split: Split = "train",
    *,
    cache: ShardCache | None = None,
    shapes: bool = False,
    max_skipped: float = 1.0,
) -> ShardIndex:
    """Index the shards that `spec` names; see `shard_names` for its syntax.

    cache: where remote shards go. shapes: find those of the clips too. max_skipped: the largest
    share of the shards that may fail to be fetched.

    Raises:
        DataError: a shard does not exist, too many cannot be fetched, or none is a tar.
    """
    names = shard_names(spec, base, split, allow_pipes=cache is not None and cache.allow_pipes)
    contents = shard_contents(names, cache, shapes=shapes, max_skipped=max_skipped)
    index = index_of([*contents], cache)
    check_tars(index)
    return index


def check_tars(index: ShardIndex) -> None:
    """Check that some of the shards are tars.

    Raises:
        DataError: none is.
    """
    if not index.clips and set(index.reasons()) == {NO_TAR}:
        raise no_tars(index.shards)


def no_tars(shards: Sequence[str]) -> DataError:
    """Return the error of shards none of which is a tar."""
    first, *others = shards
    what = (
        f"None of the {1 + len(others)} shards is a tar; the first, {first}, is" if others else ""
    )
    return DataError(
        f"{what or f'{first} is'} not a tar; pack videos into shards with nasvid data pack"
    )


def index_of(contents: Sequence[ShardContent], cache: ShardCache | None) -> ShardIndex:
    """Return the index of shards with this content."""
    digest = hashlib.sha256()
    for content in contents:
        texts = [f"{base_name(content.shard)}\0{content.size}\0"]
        texts += [f"{clip.key}\0{clip.caption}\0" for clip in content.clips]
        for text in texts:
            digest.update(text.encode("utf-8", "surrogateescape"))
    return ShardIndex(
        shards=tuple(content.shard for content in contents),
        clips=tuple(clip for content in contents for clip in content.clips),
        skipped=tuple(skip for content in contents for skip in content.skipped),
        ignored=sum(content.ignored for content in contents),
        fingerprint=digest.hexdigest(),
        bytes=sum(content.size for content in contents),
        cache=cache,
    )


def shard_contents(
    names: Sequence[str],
    cache: ShardCache | None,
    known: Mapping[str, ShardContent] | None = None,
    *,
    shapes: bool = False,
    max_skipped: float = 1.0,
    progress: Callable[[], None] = lambda: None,
) -> Iterator[ShardContent]:
    """Yield the content of each shard, in order; several are fetched at a time.

    shapes: find those of the clips too. known: from an earlier index. A remote shard in it is not
    requested again, nor is a local one read again if its size and time are unchanged.

    Raises:
        DataError: none can be fetched, or the fraction that cannot exceeds `max_skipped`.
    """
    known = known or {}
    cancelled = Flag()

    def content(name: str) -> ShardContent:
        return _content(name, cache, known.get(name), cancelled, shapes)

    lost: list[tuple[str, str]] = []
    with ThreadPoolExecutor(FETCHED_AT_ONCE) as pool:
        try:
            for number, found in enumerate(_ahead(pool, content, names), 1):
                if found.unreachable and found.shard not in known:
                    lost.append((found.shard, found.skipped[0].cause))
                    check_lost(lost, number, len(names), max_skipped)
                progress()
                yield found
        finally:
            cancelled.set()
            pool.shutdown(cancel_futures=True)


def _ahead(
    pool: ThreadPoolExecutor, content: Callable[[str], ShardContent], names: Sequence[str]
) -> Iterator[ShardContent]:
    """Yield the content of each shard, in order, working a few ahead of the caller."""
    if not any(map(is_url, names)):
        yield from map(content, names)
        return
    coming: deque[Future[ShardContent]] = deque()
    for name in names:
        coming.append(pool.submit(content, name))
        if len(coming) > FETCHED_AT_ONCE:
            yield coming.popleft().result()
    while coming:
        yield coming.popleft().result()


def _content(
    name: str,
    cache: ShardCache | None,
    known: ShardContent | None,
    cancelled: Flag,
    shapes: bool,
) -> ShardContent:
    if not is_url(name):
        stat = Path(name).stat()
        if known is not None and (known.size, known.modified) == (stat.st_size, stat.st_mtime_ns):
            return known
        return read_shard(name, Path(name), shapes=shapes)
    if known is not None:
        return known
    if cache is None:
        raise DataError(f"'{name}' is a remote shard, and there is no folder to fetch it into")
    try:
        return read_shard(name, cache.path(name, cancelled), shapes=shapes)
    except FetchError as error:
        return ShardContent(name, 0, 0, (), (Skip("", name, UNREACHABLE, str(error)),), 0)


def check_lost(lost: Sequence[tuple[str, str]], tried: int, total: int, limit: float) -> None:
    """Check that not too many shards are out of reach.

    lost: address and cause of each that is. tried: shards asked for so far. limit: the largest
    share of the total that may be lost.

    Raises:
        DataError: more are lost, or all of the first.
    """
    shard, cause = lost[0]
    if total == 1:
        raise DataError(f"{shard} cannot be fetched: {cause}")
    why = f"the first, {shard}: {cause}"
    if len(lost) == tried and (tried == total or tried > limit * total):
        which = f"the {total} shards" if tried == total else f"the first {tried} of {total} shards"
        raise DataError(f"None of {which} can be fetched; {why}")
    if len(lost) > limit * total:
        raise DataError(
            f"{len(lost)} of {total} shards cannot be fetched, more than data.max_skipped "
            f"({limit:g}) allows; {why}"
        )
