"""Processes that end when the one that started them is killed."""

import subprocess
import sys

import pytest

LATE = """
import multiprocessing, os, time
from nasvid.distributed.parent import end_with_parent

def child(parent):
    while os.getppid() == parent:
        time.sleep(0.01)
    end_with_parent()
    print("still here", flush=True)

if __name__ == "__main__":
    multiprocessing.get_context("fork").Process(target=child, args=[os.getpid()]).start()
    os._exit(0)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="the system call is Linux's")
def test_a_process_whose_parent_was_killed_before_it_asked_ends() -> None:
    done = subprocess.run([sys.executable, "-c", LATE], capture_output=True, text=True, timeout=60)
    assert (done.stdout, done.stderr) == ("", "")
