"""Asking a run to stop: Ctrl-C and SIGTERM set a flag that the run looks at when it is safe."""

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

    The first SIGINT or SIGTERM is noted; the next one acts at once, as without this.

    quiet: do not say so. launched: a launcher has started this process. It passes SIGTERM on, which
    a scheduler may have sent to all processes, and kills what has not ended in time: a second
    SIGTERM is not a second request.
    """
    asked: list[int] = []

    def note(number: int, frame: FrameType | None) -> None:
        del frame
        asked.append(number)
        if not quiet:
            print("stopping as soon as it is safe; once more to stop at once", file=sys.stderr)
        for each, handler in before.items():
            signal.signal(each, signal.SIG_IGN if launched and each == signal.SIGTERM else handler)

    before = {each: signal.signal(each, note) for each in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield lambda: asked[0] if asked else None
    finally:
        for each, handler in before.items():
            signal.signal(each, handler)
