"""Paths in a recipe: shards and caches, made absolute when it is read."""

from __future__ import annotations

import math
import re
from pathlib import Path
from typing import Annotated

from pydantic import ValidationInfo, ValidatorFunctionWrapHandler, WrapValidator

from nasvid.plugins.config import checked_path, folder_of

PIPE = "pipe:"
WEB = ("http", "https")
FETCHED = ("s3", "gs", "ais", "sftp", "scp", "ftps")
"""Schemes of addresses that are fetched by a program."""
EMBEDDED_NAME = re.compile(r"embedded(?::(\w+))?")
"""The name of the shards that ship with nasvid, or of one kind of them."""
RANGE = re.compile(r"(?<!\[)\{(\d{1,18})\.\.(\d{1,18})\}")
"""Numbers in a pattern: `{000..127}`."""
WORDS = ("run", "none")
"""What a cache may be instead of a folder."""
MOST_SHARDS = 1_000_000
"""Shards that one pattern may name: at a hundred clips each, more than there are videos."""
_ADDRESS = re.compile(rf"([A-Za-z][A-Za-z0-9+.-]*)://|({'|'.join((*WEB, *FETCHED))}):")


def is_url(shard: str) -> bool:
    """Return whether a shard is remote: `https://...`, `s3://...`, `pipe:COMMAND`."""
    return shard.startswith(PIPE) or _ADDRESS.match(shard) is not None


def _shards(spec: str, check: ValidatorFunctionWrapHandler, info: ValidationInfo) -> str:
    folder, spec = folder_of(spec, info), check_ranges(check(spec))
    if folder is None or EMBEDDED_NAME.fullmatch(spec) or is_url(spec):
        return spec
    return str(Path(literal(folder)) / checked_path(spec))


def check_ranges(pattern: str) -> str:
    """Return the pattern unchanged.

    Raises:
        ValueError: it names too many shards, or a range is descending.
    """
    ranges = [(int(match[1]), int(match[2])) for match in RANGE.finditer(pattern)]
    for first, last in ranges:
        if last < first:
            raise ValueError(
                f"'{pattern[:60]}' counts from {first} to {last}; put the smaller number first"
            )
    count = math.prod(last - first + 1 for first, last in ranges)
    if count > MOST_SHARDS:
        raise ValueError(
            f"'{pattern[:60]}' names {count:.2g} shards; a pattern names {MOST_SHARDS} at most"
        )
    return pattern


def literal(folder: Path) -> str:
    """Return a folder as a shard pattern that matches only it, whatever its name."""
    return re.sub(r"[*{]", r"[\g<0>]", str(folder))


def _cache(path: str, check: ValidatorFunctionWrapHandler, info: ValidationInfo) -> str:
    folder, path = folder_of(path, info), checked_path(check(path))
    if not path or is_url(path) or (path not in WORDS and path.lower() in WORDS):
        raise ValueError(f"'{path}' is not a folder; write a path, run or none")
    return path if folder is None or path in WORDS else str((folder / path).resolve())


ShardPath = Annotated[str, WrapValidator(_shards)]
"""Shards: a pattern of paths relative to the recipe, an address, or `embedded`."""
CachePath = Annotated[str, WrapValidator(_cache)]
"""A folder relative to the recipe, or the word `run` or `none`."""
