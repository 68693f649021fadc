"""What the command line shows as `error: ...` instead of a traceback."""

from __future__ import annotations

from collections.abc import Iterable
from difflib import get_close_matches


class UserError(ValueError):
    """Something that the user gave is wrong; the message says what, where and what to do."""


class Interrupted(Exception):
    """A run was asked to stop and has saved what it had.

    signal: the number of the signal; the process exits with 128 + this.
    how_to_go_on: the command that goes on from here.
    """

    def __init__(self, signal: int, how_to_go_on: str) -> None:
        super().__init__(f"interrupted by signal {signal}; to go on: {how_to_go_on}")
        self.signal = signal
        self.how_to_go_on = how_to_go_on


class RankLost(Exception):
    """Another process of the run has ended, so that this one cannot go on."""


def nearest(name: object, known: Iterable[str]) -> str:
    """Return `; nearest: '...'` to end a message with; `: one of ...` where nothing is near."""
    known = list(known)
    close = get_close_matches(str(name), known, n=1)
    if close:
        return f"; nearest: '{close[0]}'"
    return f": one of {', '.join(known)}" if known else ""
