"""Where trials wait: each holds a connection over loopback until its architecture is evaluated."""

from __future__ import annotations

import errno
import hmac
import secrets
import socket
import threading
import time
from dataclasses import dataclass
from pathlib import Path
from queue import SimpleQueue

from nasvid.host.files import atomic_path

HELLO = 4096
"""Largest number of bytes that a trial sends."""
SECONDS = 10.0
"""Seconds within which it must send them."""
EXHAUSTED = (errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM)


@dataclass(frozen=True, slots=True)
class Waiting:
    """A running trial that waits: its id, and where its metrics go."""

    trial: str
    channel: str
    connection: socket.socket

    def end(self, code: int, line: str) -> bool:
        """Let the trial print a line and exit; return whether it was still there."""
        try:
            self.connection.sendall(f"{code} {line}\n".encode())
            return True
        except OSError:
            return False
        finally:
            self.connection.close()


class Relay:
    """Listens on loopback for trials that know the secret of this run.

    waiting: the trials that have connected, in order of arrival.
    """

    def __init__(self, folder: Path) -> None:
        self.waiting: SimpleQueue[Waiting] = SimpleQueue()
        self._secret = secrets.token_hex(16).encode()
        self._server = socket.create_server(("127.0.0.1", 0))
        with atomic_path(folder / "relay") as temporary:
            temporary.touch(mode=0o600)
            temporary.write_text(f"{self._server.getsockname()[1]} {self._secret.decode()}\n")
        threading.Thread(target=self._accept, daemon=True).start()

    def close(self) -> None:
        """Stop listening; trials that still wait end as failed."""
        self._server.close()
        while not self.waiting.empty():
            self.waiting.get().connection.close()

    def _accept(self) -> None:
        while True:
            try:
                connection, _ = self._server.accept()
            except OSError as error:
                if error.errno not in EXHAUSTED:
                    return  # closed
                time.sleep(0.1)  # until others have given something back
                continue
            threading.Thread(target=self._greet, args=(connection,), daemon=True).start()

    def _greet(self, connection: socket.socket) -> None:
        connection.settimeout(SECONDS)
        try:
            words = _line(connection).split()
        except OSError:
            words = []
        if len(words) != 3 or not hmac.compare_digest(words[0], self._secret):
            connection.close()
            return
        trial, channel = (word.decode("utf-8", "replace") for word in words[1:])
        self.waiting.put(Waiting(trial, channel, connection))


def _line(connection: socket.socket) -> bytes:
    received = b""
    while not received.endswith(b"\n") and len(received) < HELLO:
        part = connection.recv(HELLO)
        if not part:
            break
        received += part
    return received
