"""The entry point of `nasvid`: handles Ctrl-C at any time, and output that cannot be written.

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
OUTPUT_LOST = 2
"""Exit code of a command that has done all, but could not print all."""
_lost: list[str] = []


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
        _report_loss()
        signal.signal(signal.SIGINT, signal.SIG_DFL)  # while the interpreter shuts down


def _outlast(stream: TextIO | None) -> TextIO:
    """Return a stream to the same file that drops output once its reader is gone.

    A run whose output was piped into `head`, or whose terminal was closed, still runs to its end,
    and so does one whose output goes to a full disk; the loss is an error at its end.
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
            from nasvid.host.files import FULL

            if error.errno in FULL:
                _lost.append(str(error.strerror))
            elif error.errno not in READER_GONE:
                raise
            return memoryview(b).nbytes


def _report_loss() -> None:
    """Print that output was lost, if it was; success then is a failure.

    Not on ranks other than 0: the launcher would end rank 0, which still works.
    """
    sys.stdout.flush()
    if not _lost:
        return
    print(f"error: Output was lost: {_lost[0]}; free some space where it goes", file=sys.stderr)
    ended, is_rank0 = sys.exception(), os.environ.get("RANK", "0") == "0"
    if is_rank0 and not (isinstance(ended, SystemExit) and ended.code):
        sys.exit(OUTPUT_LOST)
