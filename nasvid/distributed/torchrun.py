"""Runs torchrun for `nasvid launch`, and lets a rank's error appear in any torchrun's summary."""

from __future__ import annotations

import json
import logging
import os
import time
from collections.abc import Sequence
from pathlib import Path

from nasvid.host.terminal import say

ERROR_FILE = "TORCHELASTIC_ERROR_FILE"
"""Variable with the path of a file that torchrun's summary quotes as the reason of a failure."""
QUIET_CODES = (2, 128 + 1, 128 + 2, 128 + 15)
"""Exit codes of ranks that have printed the reason themselves: a user's error, an interruption."""


def leave_for_summary(line: str) -> None:
    """Put a line into the summary with which torchrun ends, if it has started this process."""
    path = os.environ.get(ERROR_FILE)
    if path and Path(path).parent.is_dir():
        about = {"message": line, "extraInfo": {"timestamp": str(int(time.time()))}}
        Path(path).write_text(json.dumps({"message": about}))


def run(arguments: Sequence[str]) -> int:
    """Run torchrun in this process; return the exit code of the first rank that failed, or 0.

    If that rank has printed the reason itself, nothing more is printed.
    """
    from torch.distributed import run as torchrun
    from torch.distributed.elastic.multiprocessing.api import SignalException
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError

    logging.getLogger("torch.distributed.elastic").setLevel(logging.CRITICAL)
    try:
        torchrun.run(torchrun.parse_args(list(arguments)))
    except ChildFailedError as failed:
        _, failure = failed.get_first_failure()
        if failure.exitcode not in QUIET_CODES:
            say(failed, err=True)
        return failure.exitcode if failure.exitcode > 0 else 128 - failure.exitcode
    except SignalException as stopped:
        return 128 + stopped.sigval
    return 0
