"""The process that `nasvid` is: Ctrl-C at any instant, and output whose reader may go away.

The command line is imported only when Ctrl-C is handled, for its imports take time of their own.
"""

from __future__ import annotations

import errno
import io
import os
import signal
import sys
from types import FrameType
from typing import TYPE_CHECKING, TextIO

if TYPE_CHECKING:
    from _typeshed import ReadableBuffer as Buffer

INTERRUPTED = 128 + signal.SIGINT
"""Exit code of a command that Ctrl-C has ended."""
READER_GONE = (errno.EPIPE, errno.EIO)
"""What writing to a closed pipe, or to a terminal that was closed, fails with."""


def nasvid() -> None:
    """Run the command line and end the process; a traceback is never Ctrl-C's answer."""
    interrupts: list[int] = []

    def interrupt(number: int, frame: FrameType | None) -> None:
        del frame
        signal.signal(number, signal.SIG_DFL)  # the next one ends the process at once
        interrupts.append(number)
        raise KeyboardInterrupt

    signal.signal(signal.SIGINT, interrupt)
    try:
        sys.stdout, sys.stderr = _outlast(sys.stdout), _outlast(sys.stderr)
        from nasvid.cli.main import main

        main(prog_name="nasvid")
    except BaseException as error:
        if not interrupts or isinstance(error, SystemExit):
            raise
        # Whatever it is: a library may turn an interrupted import into an error of its own.
        print("Interrupted.", file=sys.stderr)
        sys.exit(INTERRUPTED)
    finally:
        signal.signal(signal.SIGINT, signal.SIG_DFL)  # while the interpreter is taken apart


def _outlast(stream: TextIO | None) -> TextIO:
    """Return a stream to the same file that drops what nobody can read any more.

    A run whose output was piped into `head`, or whose terminal was closed, goes on to its report.
    """
    if stream is None:  # closed by whoever started the process
        return open(os.devnull, "w")
    return io.TextIOWrapper(
        io.BufferedWriter(_Lasting(stream.fileno(), "w", closefd=False)),
        encoding=stream.encoding,
        errors=stream.errors,
        line_buffering=stream.isatty() or stream.fileno() == 2,
    )


class _Lasting(io.FileIO):
    def write(self, b: Buffer, /) -> int:
        try:
            return super().write(b)
        except OSError as error:
            if error.errno not in READER_GONE:
                raise
            return memoryview(b).nbytes
