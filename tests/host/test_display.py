"""Progress within progress: two lines while the inner lasts, one before and after."""

import os
import pty
import subprocess
import sys

import pytest

SCRIPT = """
import time

from nasvid.host.display import Display

display = Display()
with display.track("outer", 2, "subnets") as outer:
    for _ in range(2):
        with display.track("inner", 3, "videos") as inner:
            inner.advance(n=3)
            time.sleep(0.3)
        outer.advance()
display.say("done")
"""


@pytest.mark.slow
def test_a_bar_within_another_is_a_line_below_it() -> None:
    master, slave = pty.openpty()
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT],
        stdin=slave,
        stdout=slave,
        stderr=subprocess.PIPE,
        env=os.environ | {"TERM": "xterm", "COLUMNS": "120"},
    )
    os.close(slave)
    shown = os.read(master, 1 << 16).decode()
    os.close(master)
    assert done.returncode == 0, done.stderr.decode()
    for line in ("outer", "inner", "3/3", "2/2", "done"):
        assert line in shown
