"""Processes that begin at once: they are forked from one that has imported what takes seconds."""

import multiprocessing
import os
import signal
import sys
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path

from nasvid.cli.main import main

_SERVER = multiprocessing.get_context("forkserver")
_SERVER.set_forkserver_preload(["tests.imported"])


class Started:
    """A process that calls a function of a module; what it prints comes to the file `said`."""

    def __init__(
        self, said: Path, call: Callable, *arguments: object, env: Mapping[str, str] | None = None
    ) -> None:
        self._said = said
        self._begin = said.stat().st_size if said.exists() else 0
        self._process = _SERVER.Process(
            target=_call, args=(said, os.environ | (env or {}), call, arguments), daemon=True
        )
        self._process.start()

    @property
    def pid(self) -> int:
        """Its number."""
        assert self._process.pid is not None
        return self._process.pid

    @property
    def said(self) -> str:
        """What it has printed so far."""
        return self._said.read_text()[self._begin :] if self._said.exists() else ""

    def poll(self) -> int | None:
        """Return its exit code, or minus a signal; None while it runs."""
        return self._process.exitcode

    def send_signal(self, number: int) -> None:
        """Send it a signal."""
        os.kill(self.pid, number)

    def kill(self) -> None:
        """Kill it, if it has not ended, and wait until it has."""
        with suppress(ProcessLookupError):
            self.send_signal(signal.SIGKILL)
        self.wait()

    def wait(self, seconds: float = 120) -> int:
        """Wait until it has ended; return its exit code, or minus a signal."""
        self._process.join(seconds)
        code = self.poll()
        assert code is not None, self.said
        return code

    def wait_for(self, reached: Callable[[], object], seconds: float = 120) -> None:
        """Wait until something is so, which must be before it ends."""
        until = time.monotonic() + seconds
        while not reached():
            assert self.poll() is None, self.said
            assert time.monotonic() < until, self.said
            time.sleep(0.01)


def nasvid(*arguments: object) -> None:
    """Call the command line."""
    main(list(map(str, arguments)), prog_name="nasvid")


def nasvid_in(folder: Path, *arguments: object) -> None:
    """Call the command line in a folder."""
    os.chdir(folder)
    nasvid(*arguments)


def _call(said: Path, environment: Mapping[str, str], call: Callable, arguments: tuple) -> None:
    os.setsid()
    signal.signal(signal.SIGINT, signal.default_int_handler)  # those of a background job ignore it
    multiprocessing.current_process()._config["daemon"] = False  # it may start others
    os.environ.clear()
    os.environ.update(environment)
    with said.open("ab") as file:
        for descriptor in (1, 2):
            os.dup2(file.fileno(), descriptor)
    for stream in (sys.stdout, sys.stderr):
        stream.reconfigure(line_buffering=True)
    call(*arguments)
