"""How this process speaks with NNI's manager: over loopback, through no proxy, with the token."""

from __future__ import annotations

import secrets
from typing import Any

import requests
import websockets
from nni.experiment import rest
from nni.runtime.command_channel.websocket import connection

LOOPBACK = "127.0.0.1"
SECONDS = 20.0
"""In which the manager has to answer."""
HEADER = "x-nasvid-token"


class Client:
    """Requests to the manager that listens on a port, NNI's own among them.

    token: what the manager asks of whoever sends it a request.
    """

    def __init__(self, port: int) -> None:
        self.token = secrets.token_urlsafe(24)
        self._port = port
        self._session = requests.Session()
        self._session.trust_env = False  # nor http_proxy: that another machine listens to
        self._session.headers[HEADER] = self.token
        rest.requests = self._session  # pyright: ignore[reportAttributeAccessIssue]
        connection._connect_async = self._connect  # pyright: ignore[reportAttributeAccessIssue]

    def get(self, path: str) -> Any:
        """Return what the manager's API answers.

        Raises:
            requests.RequestException: it does not answer, or with an error.
        """
        answer = self._session.get(f"{self.url}/api/v1/nni/{path}", timeout=SECONDS)
        answer.raise_for_status()
        return answer.json()

    def delete(self, path: str) -> None:
        """Ask the manager's API to delete something."""
        self._session.delete(f"{self.url}/api/v1/nni/{path}", timeout=SECONDS)

    def put(self, channel: str, message: Any) -> bool:
        """Send a message to a channel of the manager; return whether it was taken."""
        known = (f"http://{name}:{self._port}/" for name in ("localhost", LOOPBACK))
        if not channel.startswith(tuple(known)):
            return False  # the token is for the manager alone
        try:
            self._session.put(channel, json=message, timeout=SECONDS).raise_for_status()
        except requests.RequestException:
            return False
        return True

    @property
    def url(self) -> str:
        """Where the manager listens."""
        return f"http://{LOOPBACK}:{self._port}"

    def address(self, host: str) -> str:
        """Return the address of the pages for a browser, with the token."""
        shown = f"[{host}]" if ":" in host else host
        return f"http://{shown}:{self._port}/?token={self.token}"

    async def _connect(self, url: str) -> Any:
        headers = {HEADER: self.token}
        return await websockets.connect(url, max_size=None, proxy=None, additional_headers=headers)
