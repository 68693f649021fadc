"""torchrun as `nasvid launch` runs it, and what a rank leaves for the summary of any torchrun."""

from __future__ import annotations

import json
import logging
import os
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import NoReturn

from nasvid.host.terminal import say

ERROR_FILE = "TORCHELASTIC_ERROR_FILE"
"""Names the file from which torchrun's last lines quote why a rank has ended."""
QUIET_CODES = (2, 128 + 2, 128 + 15)
"""Exit codes of ranks that have said themselves why they end: a user's error, an interruption."""


def leave_for_summary(line: str) -> None:
    """Let a torchrun that has started this process end with a line: it prints much before it."""
    path = os.environ.get(ERROR_FILE)
    if path and Path(path).parent.is_dir():
        about = {"message": line, "extraInfo": {"timestamp": str(int(time.time()))}}
        Path(path).write_text(json.dumps({"message": about}))


def run(arguments: Sequence[str]) -> NoReturn:
    """Run torchrun in this process, then exit with the code of the first rank that failed.

    Where that rank has printed its reason, nothing is printed below it.
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
        sys.exit(failure.exitcode if failure.exitcode > 0 else 128 - failure.exitcode)
    except SignalException as stopped:
        sys.exit(128 + stopped.sigval)
    sys.exit(0)
