"""Numbers of bytes as a recipe has them: `20 GB`."""

from __future__ import annotations

import re
from typing import Annotated

from pydantic import AfterValidator

UNITS = {
    "B": 1,
    **{f"{letter}B": 1000**power for power, letter in enumerate("kMGTP", 1)},
    **{f"{letter}iB": 1024**power for power, letter in enumerate("KMGTP", 1)},
}
_SIZE = re.compile(r"(\d{1,15}(?:\.\d{1,6})?) ?([A-Za-z]+)")


def bytes_in(text: str) -> int:
    """Return the number of bytes that a text such as `20 GB` or `64MiB` says.

    Raises:
        ValueError: it says none.
    """
    found = _SIZE.fullmatch(text)
    if found is None or found[2] not in UNITS:
        raise ValueError(f"'{text}' is not a size; write one such as 20 GB or 500 MB")
    return int(float(found[1]) * UNITS[found[2]])


def _checked(text: str) -> str:
    if not bytes_in(text):
        raise ValueError("no shard fits into nothing; write a size such as 20 GB")
    return text


Size = Annotated[str, AfterValidator(_checked)]
"""A number of bytes with its unit."""
