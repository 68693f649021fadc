"""Cancelling downloads, from another thread or from the parent process."""

from __future__ import annotations

import time
from ctypes import c_bool
from multiprocessing.sharedctypes import RawValue

POLL = 0.05
"""Seconds between two checks of a flag."""


class Flag:
    """A flag that is set once and seen by all threads and by processes forked afterwards.

    It has no lock that a killed process could leave behind. It is also set by setting `other`.
    """

    def __init__(self, other: Flag | None = None) -> None:
        self._value = RawValue(c_bool, False)
        self._other = other

    def set(self) -> None:
        """Set it."""
        self._value.value = True

    def is_set(self) -> bool:
        """Return whether it is set."""
        return self._value.value or (self._other is not None and self._other.is_set())

    def wait(self, seconds: float) -> bool:
        """Wait until it is set, `seconds` at most; return whether it is."""
        end = time.monotonic() + seconds
        while not self.is_set() and (left := end - time.monotonic()) > 0:
            time.sleep(min(left, POLL))
        return self.is_set()


_ending = Flag()


def of_process() -> Flag:
    """Return the flag that cancels the downloads of this process."""
    return _ending


def follow(flag: Flag) -> None:
    """Cancel the downloads of this process, a worker, when its parent sets `flag`."""
    global _ending
    _ending = flag
