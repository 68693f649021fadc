"""The one place where text reaches the terminal, with control characters escaped.

Captions, file names and messages of other programs may contain control characters, which could
clear the screen, hide text or simulate typing. They are written as escapes: `\\x1b`.
"""

from __future__ import annotations

import re
import sys

UNSHOWN = re.compile(
    "[\x00-\x08\x0b-\x1f\x7f-\x9f"  # control characters, but for tab and line feed
    "\u200e\u200f\u202a-\u202e\u2066-\u2069"  # changes of the writing direction
    "\u2028\u2029\ud800-\udfff]"  # line separators; lone surrogates, which cannot be encoded
)


def shown(text: object) -> str:
    """Return a text with its control characters as escapes; line feeds and tabs stay."""
    return UNSHOWN.sub(lambda found: found[0].encode("unicode_escape").decode(), str(text))


def one_line(text: object) -> str:
    """Return a foreign text as part of a line: line feeds are escaped too."""
    return shown(text).replace("\n", "\\n")


def say(text: object = "", *, err: bool = False, end: str = "\n") -> None:
    """Print a text at once, on standard output or error."""
    stream = sys.stderr if err else sys.stdout
    encoding = stream.encoding or "utf-8"
    line = shown(text).encode(encoding, "backslashreplace").decode(encoding)
    print(line, end=end, file=stream, flush=True)
