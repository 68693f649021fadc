"""The `wids` index beside shards, WebDataset's own: how many samples each shard has."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Annotated, Literal
from urllib.parse import urlsplit, urlunsplit

from pydantic import BaseModel, Field, ValidationError

from nasvid.data.errors import DataError
from nasvid.data.fetch import FetchError, fetch_text
from nasvid.data.urls import base_name
from nasvid.data.web import is_web
from nasvid.host.files import write_json
from nasvid.host.reading import found_in
from nasvid.recipe.paths import PIPE, is_url

INDEX = "shardindex.json"
"""The index's file name, as `wids-index create` writes it."""
KIND = "wids-shard-index-v1"
MAX_INDEX = 1 << 28
"""Largest size of an index in bytes, enough for a million shards."""
MOST_SAMPLES = 1 << 27
"""More samples than fit into the largest shard, each of which has a header at least."""
AGAIN = "write it again, or remove it and the samples are counted"


@dataclass(frozen=True, slots=True)
class ShardCount:
    """How many samples a shard has, as WebDataset groups its members: usable ones and others.

    shard: path or address. samples: those whose first header is there. bytes: of the tar; None if
    unknown. md5: of the tar, in hexadecimal; "" if unknown. fault: why there may be fewer samples
    than there should be, such as "truncated shard", "not a tar", or for one that cannot be fetched
    the cause; "" if there is nothing wrong. reached: whether it could be read; otherwise its
    samples are unknown, and 0 here.
    """

    shard: str
    samples: int
    bytes: int | None = None
    md5: str = ""
    fault: str = ""
    reached: bool = True


class _Shard(BaseModel, strict=True):
    url: Annotated[str, Field(min_length=1)]
    nsamples: Annotated[int, Field(ge=0, le=MOST_SAMPLES)]
    filesize: Annotated[int, Field(ge=0)] | None = None
    md5sum: Annotated[str, Field(pattern=r"^[0-9a-f]{32}$")] | None = None


class _Index(BaseModel, strict=True):
    wids_version: Literal[1]
    shardlist: Annotated[list[_Shard], Field(min_length=1)]


def write_index(folder: Path, counts: Iterable[ShardCount]) -> None:
    """Write the index of the shards in a folder, whole or not at all.

    counts: of each shard, which is named as in the folder.
    """
    shards = []
    for count in counts:
        shard: dict[str, str | int] = {"url": count.shard, "nsamples": count.samples}
        if count.bytes is not None:
            shard["filesize"] = count.bytes
        if count.md5:
            shard["md5sum"] = count.md5
        shards.append(shard)
    index = {"__kind__": KIND, "wids_version": 1, "shardlist": shards}
    write_json(folder / INDEX, index)


def index_place(shard: str) -> str | None:
    """Return the path or address where a shard's index would be; None for the output of a pipe."""
    if shard.startswith(PIPE):
        return None
    if not is_url(shard):
        return str(Path(shard).parent / INDEX)
    parts = urlsplit(shard)
    return urlunsplit(parts._replace(path=str(PurePosixPath(parts.path).with_name(INDEX))))


def indexed_counts(place: str, shards: Sequence[str], *, retries: int) -> list[ShardCount] | None:
    """Return what the index at a place says of shards; None if there is no index.

    An address for which a program is needed, such as `s3://`, cannot tell a missing index from one
    that it may not read: both are none.

    Raises:
        DataError: the index cannot be read, is not one, lacks one of the shards or has it twice, or
            a local shard has another size.
    """
    text = _remote(place, retries) if is_url(place) else _local(Path(place))
    if text is None:
        return None
    known = _by_name(place, _parsed(place, text).shardlist)
    counts = []
    for shard in shards:
        name = base_name(shard)
        if name not in known:
            raise DataError(f"{place} has no shard {name}; {AGAIN}")
        entry = known[name]
        _check_size(place, shard, entry.filesize)
        counts.append(ShardCount(shard, entry.nsamples, entry.filesize, entry.md5sum or ""))
    return counts


def _parsed(place: str, text: bytes) -> _Index:
    try:
        return _Index.model_validate(json.loads(text))
    except ValidationError as error:
        first = error.errors()[0]
        where = "".join(f"[{at}]" if isinstance(at, int) else f".{at}" for at in first["loc"])
        got = json.dumps(first["input"])[:40]
        raise DataError(
            f"{place}: {where.lstrip('.') or 'the index'} is {got}: {first['msg']}; {AGAIN}"
        ) from None
    except (ValueError, RecursionError) as error:
        raise DataError(f"{place} is not JSON: {error}; {AGAIN}") from None


def _by_name(place: str, shards: Iterable[_Shard]) -> dict[str, _Shard]:
    known: dict[str, _Shard] = {}
    for shard in shards:
        name = base_name(shard.url)
        if name in known:
            raise DataError(f"{place} has the shard {name} twice; {AGAIN}")
        known[name] = shard
    return known


def _check_size(place: str, shard: str, size: int | None) -> None:
    if size is None or is_url(shard):
        return
    try:
        found = Path(shard).stat().st_size
    except FileNotFoundError:
        raise DataError(f"Shard {shard} does not exist, but {place} has it") from None
    if found != size:
        raise DataError(f"{shard} has {found} bytes, but {size} in {place}; {AGAIN}")


def _local(path: Path) -> bytes | None:
    if not found_in(path.parent, path.name):
        return None
    try:
        return path.read_bytes()
    except OSError as error:
        raise DataError(f"{path} cannot be read: {error.strerror}") from error


def _remote(url: str, retries: int) -> bytes | None:
    web = is_web(url)
    try:
        text = fetch_text(url, limit=MAX_INDEX, retries=retries if web else 0)
        return text if text.lstrip()[:1] == b"{" else None  # some send a page for what is missing
    except FetchError as error:
        if error.lasting or not web:
            return None
        raise DataError(f"{url} cannot be fetched: {error}") from error
