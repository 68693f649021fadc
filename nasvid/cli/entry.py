"""The entry point of `nasvid`: handles Ctrl-C at any time, and output whose reader goes away.

The command line is imported only after Ctrl-C is handled, because its imports take time.
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
"""Exit code of a command ended by Ctrl-C."""
READER_GONE = (errno.EPIPE, errno.EIO)
"""Errors of writing to a closed pipe or terminal."""


def nasvid() -> None:
    """Run the command line and end the process; Ctrl-C never prints a traceback."""
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
        # Any error: a library may turn an interrupted import into its own.
        print("Interrupted.", file=sys.stderr)
        sys.exit(INTERRUPTED)
    finally:
        signal.signal(signal.SIGINT, signal.SIG_DFL)  # while the interpreter shuts down


def _outlast(stream: TextIO | None) -> TextIO:
    """Return a stream to the same file that drops output once its reader is gone.

    A run whose output was piped into `head`, or whose terminal was closed, still runs to its end.
    """
    if stream is None:  # closed by the parent process
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
