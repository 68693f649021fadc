"""Errors that the command line prints as `error: ...` instead of a traceback."""

from __future__ import annotations

from collections.abc import Iterable
from difflib import get_close_matches
from pathlib import Path


class UserError(ValueError):
    """The user's input is wrong; the message says what, where and what to do."""


class Damaged(UserError):
    """A file is not what was written there; the message names it.

    path: of the file, or of the folder that holds it. reason: what is wrong with it.
    """

    def __init__(self, path: Path, reason: str, fix: str = "nasvid run makes it again") -> None:
        super().__init__(f"{path} is damaged ({reason}); {fix}")
        self.path = path
        self.reason = reason
        self.fix = fix

    def __reduce__(self) -> tuple[type[Damaged], tuple[Path, str, str]]:
        return type(self), (self.path, self.reason, self.fix)  # between processes


class Interrupted(Exception):
    """A run was asked to stop and has saved its progress.

    signal: the signal's number; the process exits with 128 + this.
    resume_with: the command that resumes the run.
    """

    def __init__(self, signal: int, resume_with: str) -> None:
        super().__init__(f"Interrupted by signal {signal}. Resume with: {resume_with}")
        self.signal = signal
        self.resume_with = resume_with


class RankLost(Exception):
    """Another process of the run has ended, so this one cannot continue."""


def first_line(error: Exception) -> str:
    """Return the first line of an error of a library, or its type if it has no message."""
    return next(iter(str(error).strip().splitlines()), type(error).__name__)


def nearest(name: object, known: Iterable[str]) -> str:
    """Return a message's end: `; did you mean '...'?`, or `; use one of ...` if none is similar."""
    known = list(known)
    close = get_close_matches(str(name), known, n=1)
    if close:
        return f"; did you mean '{close[0]}'?"
    return f"; use one of {', '.join(known)}" if known else ""
