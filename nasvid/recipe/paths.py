"""Paths in a recipe: shards and caches, made absolute when it is read."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Annotated

from pydantic import ValidationInfo, ValidatorFunctionWrapHandler, WrapValidator

from nasvid.plugins.config import folder_of

PIPE = "pipe:"
WEB = ("http", "https")
FETCHED = ("s3", "gs", "ais", "sftp", "scp", "ftps")
"""Schemes of addresses that are fetched by a program."""
EMBEDDED_NAME = re.compile(r"embedded(?::(\w+))?")
"""Names the shards that ship with nasvid, or one kind of them."""
_ADDRESS = re.compile(rf"([A-Za-z][A-Za-z0-9+.-]*)://|({'|'.join((*WEB, *FETCHED))}):")


def is_url(shard: str) -> bool:
    """Return whether a shard is remote: `https://...`, `s3://...`, `pipe:COMMAND`."""
    return shard.startswith(PIPE) or _ADDRESS.match(shard) is not None


def _shards(spec: str, check: ValidatorFunctionWrapHandler, info: ValidationInfo) -> str:
    folder, spec = folder_of(spec, info), check(spec)
    if folder is None or EMBEDDED_NAME.fullmatch(spec) or is_url(spec):
        return spec
    return str(Path(literal(folder)) / spec)


def literal(folder: Path) -> str:
    """Return a folder as a shard pattern that matches only it, whatever its name."""
    return re.sub(r"[*{]", r"[\g<0>]", str(folder))


def _cache(path: str, check: ValidatorFunctionWrapHandler, info: ValidationInfo) -> str:
    folder, path = folder_of(path, info), check(path)
    return path if folder is None or path in ("run", "none") else str((folder / path).resolve())


ShardPath = Annotated[str, WrapValidator(_shards)]
"""Shards: a pattern of paths relative to the recipe, an address, or `embedded`."""
CachePath = Annotated[str, WrapValidator(_cache)]
"""A folder relative to the recipe, or the word `run` or `none`."""
