"""The shards that a recipe's `train:` or `val:` names."""

from __future__ import annotations

import glob
import re
from collections.abc import Iterator
from difflib import get_close_matches
from pathlib import Path, PurePosixPath
from typing import Literal

from nasvid.data.errors import DataError
from nasvid.data.urls import base_name, check_url
from nasvid.data.wids import INDEX
from nasvid.recipe.paths import EMBEDDED_NAME, PIPE, RANGE, check_ranges, is_url, literal

Split = Literal["train", "val"]
SPLITS: tuple[Split, ...] = ("train", "val")
EMBEDDED = Path(__file__).parent / "embedded"
"""The embedded shards, `{train,val}/{digits,footage}-000.tar`; see SOURCES.md there."""

WILDCARD = re.compile(r"(?<!\[)\*")
"""Matches any characters; in brackets it is a literal."""
COMPRESSED = frozenset({".gz", ".tgz", ".bz2", ".xz", ".zst"})


def shard_names(
    spec: str | list[str], base: Path, split: Split, *, allow_pipes: bool = False
) -> tuple[str, ...]:
    """Return the paths and URLs of the shards that `spec` names, in order, without duplicates.

    spec: paths, relative to `base`, with `{000..127}` and `*`; addresses with `{000..127}`;
    `embedded` for all clips that ship with nasvid, `embedded:digits` and `embedded:footage` for one
    kind of them.

    Raises:
        DataError: a file does not exist, a pattern matches nothing, a file is not a tar, or an
            address is malformed or cannot be fetched by this machine. Nothing is fetched to check.
    """
    patterns = [spec] if isinstance(spec, str) else spec
    names: list[str] = []
    for pattern in patterns:
        try:
            check_ranges(pattern)
        except ValueError as error:
            raise DataError(str(error)) from None
        if is_url(pattern):
            names += _urls(pattern, allow_pipes=allow_pipes)
        else:
            names += map(str, _paths(pattern, base, split))
    if not names:
        raise DataError("No shards are named; write a path like 'clips/{000..127}.tar'")
    return tuple(dict.fromkeys(names))


def _urls(pattern: str, *, allow_pipes: bool) -> list[str]:
    urls = list(_expand(pattern))
    for url in urls[:1]:  # the others differ only by a number
        check_url(url, allow_pipes=allow_pipes)
        if PurePosixPath(base_name(url)).suffix in COMPRESSED and not url.startswith(PIPE):
            raise DataError(f"{url} is compressed; decompress it (video hardly compresses)")
    return urls


def _paths(pattern: str, base: Path, split: Split) -> Iterator[Path]:
    kind = EMBEDDED_NAME.fullmatch(pattern)
    if kind:
        base, pattern = EMBEDDED, f"{split}/{_embedded(kind[1])}-*.tar"
    for name in _expand(str(Path(literal(base)) / pattern)):
        path = Path(re.sub(r"\[([*{])\]", r"\1", name))
        found = _glob(name) if WILDCARD.search(name) else [path]
        if not found or not found[0].is_file():
            raise DataError(_nothing_at(pattern, path))
        if found[0].suffix in COMPRESSED:
            raise DataError(f"{found[0]} is compressed; decompress it (video hardly compresses)")
        yield from found


def _embedded(kind: str | None) -> str:
    """Return the pattern of one kind of embedded shards, or of all if None."""
    known = sorted({path.name.rpartition("-")[0] for path in EMBEDDED.glob("*/*.tar")})
    if kind is not None and kind not in known:
        kinds = ", ".join(f"embedded:{each}" for each in known)
        raise DataError(f"'embedded:{kind}' does not exist; use one of embedded, {kinds}")
    return kind or "*"


def _expand(pattern: str) -> Iterator[str]:
    """Yield `a0.tar`, `a1.tar` for `a{0..1}.tar`; leading zeros are kept."""
    match = RANGE.search(pattern)
    if match is None:
        yield pattern
        return
    for number in range(int(match[1]), int(match[2]) + 1):
        expanded = str(number).zfill(len(match[1]))
        yield from _expand(pattern[: match.start()] + expanded + pattern[match.end() :])


def _glob(pattern: str) -> list[Path]:
    """Return the files that a pattern matches, in which only `*` is special."""
    escaped = re.sub(r"\[[*{]\]|[\[?]", lambda m: m[0] if len(m[0]) > 1 else f"[{m[0]}]", pattern)
    found = map(Path, glob.iglob(escaped))
    return sorted(path for path in found if path.is_file() and path.name != INDEX)


def _nothing_at(pattern: str, path: Path) -> str:
    if path.is_dir():
        below = "*.tar" if any(path.glob("*.tar")) else next(_splits_in(path), "*.tar")
        return f"{path} is a folder; for all shards in it write '{Path(pattern) / below}'"
    near = _nearest(path)
    hint = f"the nearest file is {near}" if near else f"{_existing(path)} holds no .tar"
    what = f"No shard matches {path}" if "*" in path.name else f"Shard {path} does not exist"
    named = "" if str(path).endswith(pattern) else f" (from '{pattern}')"
    return f"{what}{named}; {hint}"


def _splits_in(folder: Path) -> Iterator[str]:
    """Yield the patterns of the splits that a folder holds, as `nasvid data pack --val` makes."""
    yield from (f"{split}/*.tar" for split in SPLITS if any((folder / split).glob("*.tar")))


def _existing(path: Path) -> Path:
    return next(folder for folder in path.parents if folder.is_dir())


def _nearest(path: Path) -> Path | None:
    """Return the tar with the most similar name in or below `path`'s deepest existing folder."""
    folder = _existing(path)
    files = {str(file): file for file in (*folder.glob("*.tar"), *folder.glob("*/*.tar"))}
    match = get_close_matches(str(path), files, n=1, cutoff=0.0)
    return files[match[0]] if match else None
