"""Stopping a run: Ctrl-C and SIGTERM set a flag that the run checks when it is safe to stop."""

from __future__ import annotations

import signal
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType


@contextmanager
def stop_requests(
    *, quiet: bool = False, launched: bool = False
) -> Iterator[Callable[[], int | None]]:
    """Yield a function that returns the signal that asked to stop, or None.

    The first SIGINT or SIGTERM is recorded; the next one takes effect at once, as usual.

    quiet: print nothing. launched: a launcher has started this process. It passes on SIGTERM, which
    a scheduler may have sent to all processes too, so that a second SIGTERM is not a second
    request; it also kills any process that does not end in time.
    """
    asked: list[int] = []

    def note(number: int, frame: FrameType | None) -> None:
        del frame
        asked.append(number)
        if not quiet:
            print("Stopping at the next safe point; repeat to stop immediately", file=sys.stderr)
        for each, handler in before.items():
            signal.signal(each, signal.SIG_IGN if launched and each == signal.SIGTERM else handler)

    before = {each: signal.signal(each, note) for each in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield lambda: asked[0] if asked else None
    finally:
        for each, handler in before.items():
            signal.signal(each, handler)
