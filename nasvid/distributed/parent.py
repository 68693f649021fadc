"""Processes that end when the one that started them is killed."""

from __future__ import annotations

import ctypes
import multiprocessing
import os
import signal
import sys
import threading
import time

PR_SET_PDEATHSIG = 1
"""From Linux's `prctl.h`."""
POLL = 0.5
"""Seconds between two checks of who the parent is."""


def end_with_parent() -> None:
    """Have the system kill this forked process when the thread that started it ends, or has ended.

    Only on Linux.
    """
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
        parent = multiprocessing.parent_process()
        if parent is not None and os.getppid() != parent.pid:
            os._exit(1)


def stop_with_parent() -> None:
    """Send this process SIGTERM, on which a run saves and stops, once its parent has ended."""
    parent = os.getppid()

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(POLL)
        os.kill(os.getpid(), signal.SIGTERM)

    threading.Thread(target=watch, name="parent", daemon=True).start()
