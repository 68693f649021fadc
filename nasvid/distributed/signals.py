"""Stopping a run: a signal sets a flag that the run checks when it is safe to stop."""

from __future__ import annotations

import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType

from nasvid.host.terminal import say

_is_waiting = False


class _StopWaiting(BaseException):
    """A signal has asked to stop while its receiver only waited."""


@contextmanager
def waiting() -> Iterator[None]:
    """End the block inside at once when a first signal asks to stop; what it began is dropped.

    For waiting that may take long. What has to end well, such as a checkpoint, goes elsewhere.
    """
    global _is_waiting
    _is_waiting = True
    try:
        yield
    except _StopWaiting:
        return
    finally:
        _is_waiting = False


REQUESTS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
"""Ctrl-C; a scheduler, or `kill`; a terminal that was closed."""


@contextmanager
def stop_requests(
    *, quiet: bool = False, launched: bool = False
) -> Iterator[Callable[[], int | None]]:
    """Yield a function that returns the signal that asked to stop, or None.

    The first SIGINT, SIGTERM or SIGHUP is recorded; the next one takes effect at once, as usual.
    A second SIGHUP does not count: both the shell and the kernel send one when a terminal is
    closed. A signal that was ignored stays ignored, as `nohup` requires.

    quiet: print nothing. launched: a launcher has started this process. It forwards SIGTERM, which
    a scheduler may also have sent to all processes, so a second SIGTERM does not count either; it
    also kills any process that does not end in time.
    """
    asked: list[int] = []

    def note(number: int, frame: FrameType | None) -> None:
        del frame
        asked.append(number)
        if not quiet:
            say("Stopping at the next safe point; repeat to stop immediately", err=True)
        for each, handler in before.items():
            repeated = each == signal.SIGHUP or (launched and each == signal.SIGTERM)
            signal.signal(each, signal.SIG_IGN if repeated else handler)
        if _is_waiting:
            raise _StopWaiting

    heeded = [each for each in REQUESTS if signal.getsignal(each) is not signal.SIG_IGN]
    before = {each: signal.signal(each, note) for each in heeded}
    try:
        yield lambda: asked[0] if asked else None
    finally:
        for each, handler in before.items():
            signal.signal(each, handler)
