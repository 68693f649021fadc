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


LONG_NOTE = """
import time

from nasvid.host.display import Display

with Display().track("train", 1300, "steps") as tracker:
    for _ in range(10):
        tracker.advance("loss 0.320 at 16 px, 6% waiting for data")
        time.sleep(0.05)
"""


def shown_in_terminal(script: str, columns: int) -> str:
    master, slave = pty.openpty()
    done = subprocess.run(
        [sys.executable, "-c", script],
        stdin=slave,
        stdout=slave,
        stderr=subprocess.PIPE,
        env=os.environ | {"TERM": "xterm", "COLUMNS": str(columns)},
    )
    os.close(slave)
    shown = os.read(master, 1 << 16).decode()
    os.close(master)
    assert done.returncode == 0, done.stderr.decode()
    return shown


@pytest.mark.slow
@pytest.mark.parametrize(("columns", "end"), [(60, "…"), (120, "waiting for data")])
def test_a_note_gives_way_to_the_remaining_time(columns: int, end: str) -> None:
    shown = shown_in_terminal(LONG_NOTE, columns)
    assert "left" in shown
    assert end in shown


@pytest.mark.slow
def test_a_bar_within_another_is_a_line_below_it() -> None:
    shown = shown_in_terminal(SCRIPT, 120)
    for line in ("outer", "inner", "3/3", "2/2", "done"):
        assert line in shown
