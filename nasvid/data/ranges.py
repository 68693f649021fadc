"""Reads parts of a remote shard: by range requests, or else all of it from its start."""

from __future__ import annotations

import re
import threading
from collections.abc import Generator
from contextlib import closing
from urllib.parse import urljoin, urlsplit
from urllib.request import getproxies, proxy_bypass

import urllib3

from nasvid.data.cancel import Flag
from nasvid.data.fetch import (
    CHUNK,
    MAX_SHARD,
    PATIENCE,
    Cancelled,
    Checked,
    FetchError,
    chunks,
    refused,
    retried,
)
from nasvid.data.web import is_web, web_address
from nasvid.recipe.paths import WEB

LEAST, MOST = 1 << 14, 1 << 21
"""Bytes of the first block that is requested, and of the largest."""
SKIPPED = 1 << 18
"""Fewer bytes than this are received rather than left out: another request takes longer."""
MOST_REDIRECTS = 10
_pools = threading.local()


class NoRanges(FetchError):
    """The source sends all or nothing."""


class RemoteFile:
    """A remote shard that is read at growing offsets, without keeping it.

    It is read in blocks, which grow as long as little lies between them. retries: of each block.
    """

    def __init__(self, url: str, *, retries: int, cancelled: Flag) -> None:
        self._shard, self._retries, self._cancelled = url, retries, cancelled
        self._address, self._own = web_address(url)
        self._url = self._address
        self._start, self._block, self._length = 0, b"", LEAST
        self.size: int | None = None
        """In bytes; None until it is known."""

    def read(self, size: int, offset: int) -> bytes:
        """Return `size` bytes from `offset`; fewer at the end.

        Raises:
            NoRanges: the source does not send parts. FetchError: it cannot be read.
        """
        after = offset - self._start - len(self._block)
        if offset < self._start or after + size > 0:
            if self._block:
                self._length = min(2 * self._length, MOST) if after < SKIPPED else LEAST
            self._block = retried(
                lambda last: self._load(offset, max(size, self._length)),
                self._retries,
                self._cancelled,
            )
            self._start = offset
        at = offset - self._start
        return self._block[at : at + size]

    def _load(self, offset: int, size: int) -> bytes:
        if self._cancelled.is_set():
            raise Cancelled("given up", lasting=True)
        if self.size is not None and offset >= self.size:
            return b""
        if not is_web(self._shard):
            raise NoRanges("a program has no ranges", lasting=True)
        wanted = {"Range": f"bytes={offset}-{offset + size - 1}"}
        try:
            for _ in range(MOST_REDIRECTS):
                own = self._own if self._url == self._address else {}
                with closing(_get(self._url, wanted | own)) as response:
                    target = response.get_redirect_location()
                    if not target:
                        return self._body(response, offset, size)
                self._url = _redirected(self._url, target)  # of the next requests, too
        except urllib3.exceptions.HTTPError as error:
            raise FetchError(f"{error}".rpartition(": ")[2]) from error
        raise FetchError("it is redirected without end", lasting=True)

    def _body(self, response: urllib3.BaseHTTPResponse, offset: int, size: int) -> bytes:
        content = response.headers.get("Content-Range", "")
        if response.status == 416:  # the offset is at the end
            return b""
        if response.status == 200:
            raise NoRanges("the server has no ranges", lasting=True)
        if response.status != 206:
            if self._url != self._address:  # where it was redirected to may be signed for a while
                self._url = self._address
                raise FetchError(f"HTTP {response.status} {response.reason}")
            raise refused(self._shard, response.status, response.reason)
        match = re.fullmatch(r"bytes (\d{1,18})-(\d{1,18})/(\d{1,18}|\*)", content.strip())
        if match is None or int(match[1]) != offset or int(match[2]) >= offset + size:
            raise NoRanges(f"the server sent another part: {content[:60]!r}", lasting=True)
        if match[3] != "*":
            self.size = int(match[3])
            if self.size > MAX_SHARD:
                raise FetchError("it is larger than a shard may be", lasting=True)
        checked, parts, length = Checked(None, tar=not offset), [], int(match[2]) - offset + 1
        while chunk := response.read1(CHUNK):
            checked.add(chunk)
            parts.append(chunk)
        body = b"".join(parts)
        if len(body) != length:
            raise FetchError(f"received {len(body)} of {length} bytes")
        checked.end()
        return body


class RemoteStream:
    """A remote shard that is received from its start, of which parts are read on the way."""

    def __init__(self, url: str, cancelled: Flag) -> None:
        self._received: Generator[bytes, None, bool] = chunks(url)
        self._checked, self._cancelled = Checked(None), cancelled
        self._start, self._block = 0, b""
        self.size: int | None = None

    def read(self, size: int, offset: int) -> bytes:
        """Return `size` bytes from `offset`; fewer at the end.

        Raises:
            FetchError: it cannot be read.
        """
        while self.size is None and self._start + len(self._block) < offset + size:
            skipped = min(offset - self._start, len(self._block))
            self._start, self._block = self._start + skipped, self._block[skipped:]
            try:
                chunk = next(self._received)
            except StopIteration:
                self._checked.end()
                self.size = self._start + len(self._block)
                break
            if self._cancelled.is_set():
                raise Cancelled("given up", lasting=True)
            self._checked.add(chunk)
            self._block += chunk
        at = offset - self._start
        return self._block[at : at + size]

    def end(self) -> int:
        """Receive what is left; return the size in bytes."""
        self.read(1, MAX_SHARD + 1)
        assert self.size is not None
        return self.size

    def close(self) -> None:
        """Stop receiving."""
        self._received.close()


def _redirected(url: str, target: str) -> str:
    target = urljoin(url, target)
    if target.partition(":")[0].lower() not in WEB:
        raise FetchError(f"it is redirected to {target[:60]!r}", lasting=True)
    return target


def _get(url: str, headers: dict[str, str]) -> urllib3.BaseHTTPResponse:
    parts = urlsplit(url)
    return _pool(parts.scheme, parts.netloc).request(
        "GET",
        url,
        headers={"User-Agent": "nasvid", "Accept-Encoding": "identity", **headers},
        preload_content=False,
        decode_content=False,
        timeout=PATIENCE,
        retries=False,
        redirect=False,
    )


def _pool(scheme: str, host: str) -> urllib3.PoolManager:
    """Return this thread's connections to a host, through the proxy that the environment names."""
    pools: dict[tuple[str, str], urllib3.PoolManager] = _pools.__dict__.setdefault("of", {})
    if (scheme, host) not in pools:
        known = getproxies()
        proxy = None if proxy_bypass(host) else known.get(scheme) or known.get("all")
        pools[scheme, host] = urllib3.ProxyManager(proxy) if proxy else urllib3.PoolManager()
    return pools[scheme, host]
