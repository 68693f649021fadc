"""Downloads one shard to a file, completely or not at all."""

from __future__ import annotations

import errno
import http.client
import os
import random
import select
import shutil
import signal
import subprocess
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Generator
from contextlib import ExitStack, closing, suppress
from dataclasses import replace
from email.message import Message
from pathlib import Path
from typing import IO, TypeVar

from nasvid.data import cancel
from nasvid.data.cancel import Flag
from nasvid.data.room import NoRoomError, Room
from nasvid.data.tar import BLOCK, begins, is_whole
from nasvid.data.urls import command
from nasvid.data.web import advice, is_web, web_address
from nasvid.host.files import atomic_path
from nasvid.host.words import bytes_text

T = TypeVar("T")
PATIENCE = 60.0
"""Seconds within which a source must send something."""
LEAST_RATE = 1000
"""Bytes per second that a source must send, on average over any `PATIENCE` seconds."""
MAX_SHARD = 1 << 36
"""Largest size of a shard in bytes: 64 GiB."""
RESERVE = 1 << 28
"""Downloads larger than this stop when fewer bytes than this are free on the disk."""
FIRST_WAIT, LONGEST_WAIT = 0.5, 30.0
"""Limits on the wait in seconds: before the second attempt, then doubling, and before any later."""
CHUNK = 1 << 20
TRANSIENT = (408, 425, 429)
"""HTTP client errors that may be temporary; all others, such as a missing file, are permanent."""
NOT_FOUND = (126, 127)
"""A shell's exit codes for a command that it cannot run or find."""
_jitter = random.SystemRandom()  # not the seeded generator, which must stay reproducible


class FetchError(Exception):
    """A shard cannot be fetched; `lasting` means that another attempt would not help."""

    def __init__(self, why: str, *, lasting: bool = False) -> None:
        super().__init__(why)
        self.lasting = lasting


class Cancelled(FetchError):
    """The download was cancelled by this program, which says nothing about the shard."""


def fetch(
    url: str,
    path: Path,
    *,
    retries: int,
    cancelled: Flag | None = None,
    room: Room | None = None,
) -> None:
    """Write the shard at `url` to `path`, trying again up to `retries` times.

    A shard without a proper end is kept, for its index to report, only if it seems to be damaged at
    its source: it arrived with the same length twice, and the source announced that length or no
    attempts are left.

    cancelled: stops it within a chunk; by default the flag that cancels all downloads of this
    process. room: that the folder may take.

    Raises:
        FetchError: it cannot be fetched. OSError: it cannot be written. NoRoomError: no room.
    """
    cancelled = cancelled or cancel.of_process()
    before = None

    def attempt(last: bool) -> None:
        nonlocal before
        with ExitStack() as alone, atomic_path(path) as temporary:
            announced = _download(url, temporary, cancelled, room)
            length = temporary.stat().st_size
            at_source = length == before and (announced or last)
            if not at_source and not is_whole(temporary):
                before = length
                raise FetchError(f"the download ends early or is not a tar ({length} bytes)")
            if room is not None:
                alone.enter_context(room.alone())

    retried(attempt, retries, cancelled)


def fetch_text(url: str, *, limit: int, retries: int) -> bytes:
    """Return what is at an address, `limit` bytes at most; see `fetch`.

    Raises:
        FetchError: it cannot be fetched, or is larger.
    """
    cancelled = cancel.of_process()

    def attempt(last: bool) -> bytes:
        text = b""
        with closing(chunks(url)) as received:
            for chunk in received:
                text += chunk
                if len(text) > limit:
                    raise FetchError(f"it is larger than {bytes_text(limit)}", lasting=True)
                if cancelled.is_set():
                    raise Cancelled("given up", lasting=True)
        return text

    return retried(attempt, retries, cancelled)


def retried(attempt: Callable[[bool], T], retries: int, cancelled: Flag) -> T:
    """Return what an attempt returns, after trying again up to `retries` times.

    attempt: receives whether it is the last.

    Raises:
        FetchError: the last one failed, or one for good; or `cancelled` is set.
    """
    for number in range(retries + 1):
        try:
            return attempt(number == retries)
        except FetchError as error:
            if error.lasting or number == retries:
                raise
        if cancelled.wait(wait_before(number + 1)):
            break
    raise Cancelled("given up", lasting=True)


def wait_before(attempt: int) -> float:
    """Return a random wait in seconds before retry `attempt`, from 1: half to all of the limit."""
    return min(FIRST_WAIT * 2 ** (attempt - 1), LONGEST_WAIT) * _jitter.uniform(0.5, 1)


def _download(url: str, path: Path, cancelled: Flag, room: Room | None) -> bool:
    """Write what a source sends; return whether the source announced this length."""
    checked = Checked(path.parent)
    with path.open("wb") as file, closing(chunks(url)) as received:
        reserved = 0
        while True:
            try:
                chunk = next(received)
            except StopIteration as end:
                announced = bool(end.value)
                checked.end()
                break
            checked.add(chunk)
            if room is not None and file.tell() + len(chunk) > reserved:
                reserved = _reserved(room, path, file.tell() + len(chunk), cancelled)
            file.write(chunk)
            if cancelled.is_set():
                raise Cancelled("given up", lasting=True)
        file.truncate()
        file.flush()
        os.fsync(
            file.fileno()
        )  # otherwise a crash of the machine may leave a file without its bytes
    return announced


def _reserved(room: Room, path: Path, needed: int, cancelled: Flag) -> int:
    """Reserve room for a file, twice as much as needed if it is free; return how much."""
    with suppress(NoRoomError):
        replace(room, wait=0.0, removes=False).grow(path, 2 * needed, cancelled)
        return 2 * needed
    room.grow(path, needed, cancelled)
    return needed


def chunks(url: str) -> Generator[bytes, None, bool]:
    """Yield what a source sends; return whether it announced that length.

    Raises:
        FetchError: it fails, sends nothing for a while, or less than it announced.
    """
    return _from_web(url) if is_web(url) else _from_command(url)


class Checked:
    """Checks data while it is received: that it begins like a tar, its rate and its size.

    folder: where it is written; None if it is not kept. tar: whether it is the start of one.
    """

    def __init__(self, folder: Path | None, *, tar: bool = True) -> None:
        self._folder, self._tar = folder, tar
        self._start = b""
        self._size = self._recent = 0
        self._since = time.monotonic()

    def add(self, chunk: bytes) -> None:
        """Count the next bytes.

        Raises:
            FetchError: they are not a tar, too slow or too many.
        """
        if self._tar and len(self._start) < BLOCK:
            self._start += chunk[: BLOCK - len(self._start)]
            if len(self._start) == BLOCK and not begins(self._start):
                raise FetchError(f"it is not a tar: it begins with {self._shown()}", lasting=True)
        self._size += len(chunk)
        self._recent += len(chunk)
        if self._size > MAX_SHARD:
            raise FetchError(
                f"it is larger than {bytes_text(MAX_SHARD)}; write smaller shards", lasting=True
            )
        if (seconds := time.monotonic() - self._since) >= PATIENCE:
            if self._recent < LEAST_RATE * seconds:
                raise FetchError(f"received only {self._recent} bytes in {seconds:.0f} seconds")
            self._since, self._recent = time.monotonic(), 0
        if self._folder is None or self._size <= RESERVE:
            return
        if shutil.disk_usage(self._folder).free < RESERVE:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(self._folder))

    def end(self) -> None:
        """Check that enough was received.

        Raises:
            FetchError: it is too little for a tar.
        """
        if self._tar and len(self._start) < BLOCK:
            raise FetchError(
                f"the download ends early or is not a tar ({self._size} bytes, {self._shown()})"
            )

    def _shown(self) -> str:
        return repr(self._start[:40].decode("utf-8", "replace"))


def announced_length(headers: Message) -> int | None:
    """Return the announced length of a body, or None.

    Raises:
        FetchError: it is not a number, or more than a shard may have.
    """
    length = headers.get("Content-Length")
    if length is None:
        return None
    if not (length.isascii() and length.isdecimal()):
        raise FetchError(f"its announced length is not a number: {length[:40]!r}")
    if int(length) > MAX_SHARD:
        raise FetchError(
            f"it is larger than {bytes_text(MAX_SHARD)}; write smaller shards", lasting=True
        )
    return int(length)


def _from_web(url: str) -> Generator[bytes, None, bool]:
    """Yield the body at a web address; return whether its length was announced.

    The length is compared here because http.client accepts a body that is too short.
    """
    address, own = web_address(url)
    request = urllib.request.Request(address, headers={"User-Agent": "nasvid"})
    for name, value in own.items():
        request.add_unredirected_header(name, value)
    got = 0
    try:
        with urllib.request.urlopen(request, timeout=PATIENCE) as response:
            length = announced_length(response.headers)
            while chunk := response.read1(CHUNK):
                got += len(chunk)
                yield chunk
    except urllib.error.HTTPError as error:
        error.close()
        raise refused(url, error.code, error.reason) from None
    except urllib.error.URLError as error:
        raise FetchError(str(error.reason)) from error
    except (OSError, http.client.HTTPException, ValueError) as error:
        raise FetchError(str(error) or type(error).__name__) from error
    if length is not None and got != length:
        raise FetchError(f"received {got} of {length} bytes")
    return length is not None


def refused(url: str, status: int, reason: str | None) -> FetchError:
    """Return the error of a request that was answered with an HTTP status."""
    lasting = 400 <= status < 500 and status not in TRANSIENT
    return FetchError(
        f"HTTP {status} {reason or ''}".rstrip() + advice(url, status), lasting=lasting
    )


def _from_command(url: str) -> Generator[bytes, None, bool]:
    """Yield what a command writes; the last line of its stderr explains a failure.

    Return False: a command announces no length.
    """
    line = command(url)
    with tempfile.TemporaryFile() as complaints:
        try:
            process = subprocess.Popen(
                line,
                shell=isinstance(line, str),
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=complaints,
                start_new_session=True,
            )
        except OSError as error:
            raise FetchError(f"{line[0]}: {error.strerror}", lasting=True) from error
        try:
            assert process.stdout is not None
            yield from _output(process.stdout)
            status = process.wait(PATIENCE)
        except subprocess.TimeoutExpired:
            raise FetchError("the command does not exit") from None
        finally:
            _end(process)
        if status != 0:
            what = _last_line(complaints) or "the command failed"
            raise FetchError(f"{what} (exit {status})", lasting=status in NOT_FOUND)
    return False


def _output(stream: IO[bytes]) -> Generator[bytes, None, None]:
    waiting = select.poll()
    waiting.register(stream, select.POLLIN | select.POLLHUP)
    while True:
        if not waiting.poll(PATIENCE * 1000):
            raise FetchError(f"received nothing for {PATIENCE:.0f} seconds")
        chunk = os.read(stream.fileno(), CHUNK)
        if not chunk:
            return
        yield chunk


def _end(process: subprocess.Popen[bytes]) -> None:
    """Kill a command and everything it has started."""
    if process.stdout is not None:
        process.stdout.close()
    if process.poll() is None:
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def _last_line(file: IO[bytes]) -> str:
    file.seek(0)
    lines = file.read().decode("utf-8", "replace").split("\n")
    return next((line.strip()[:200] for line in reversed(lines) if line.strip()), "")
