import functools
import io
import os
import re
import socket
import struct
import tarfile
import threading
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from fractions import Fraction
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import av
import numpy as np
import pytest

from nasvid.data import cache, fetch


@functools.cache
def _encode(
    frames: int, fps: int, width: int, height: int, container: str, codec: str, gop: int
) -> bytes:
    """Encode frames that get brighter by 4 of 255 each, with a dark left and a light right edge."""
    buffer = io.BytesIO()
    with av.open(buffer, "w", format=container) as out:
        stream = out.add_stream(codec, rate=Fraction(fps), options={"crf": "5"})
        stream.width, stream.height, stream.pix_fmt = width, height, "yuv420p"
        stream.codec_context.gop_size = gop
        for number in range(frames):
            picture = np.full((height, width, 3), min(20 + 4 * number, 255), np.uint8)
            picture[:, : width // 8], picture[:, -(width // 8) :] = 0, 255
            out.mux(stream.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")))
        out.mux(stream.encode())
    return buffer.getvalue()


@pytest.fixture(scope="session")
def make_video() -> Callable[..., bytes]:
    """Real videos; frame n has the gray value 20 + 4 n in its middle."""

    def make(
        frames: int = 20,
        fps: int = 8,
        *,
        width: int = 48,
        height: int = 32,
        container: str = "mp4",
        codec: str = "libx264",
        gop: int = 6,
    ) -> bytes:
        return _encode(frames, fps, width, height, container, codec, gop)

    return make


@pytest.fixture(scope="session")
def write_tar() -> Callable[..., Path]:
    """Write (name, bytes) members as a tar."""

    def write(path: Path, members: Iterable[tuple[str, bytes]], form: int = tarfile.PAX_FORMAT):
        path.parent.mkdir(parents=True, exist_ok=True)
        with tarfile.open(path, "w", format=form) as tar:
            for name, body in members:
                info = tarfile.TarInfo(name)
                info.size = len(body)
                tar.addfile(info, io.BytesIO(body))
        return path

    return write


class Source:
    """A web server whose answers fail by plan; it counts what it is asked for.

    fail: maps the number of a request, from 1, to what goes wrong with it: "503", "reset", "short"
    (the announced length does not come), "cut" (no length is announced), or None. ranges: whether
    parts of a file can be asked for.
    """

    def __init__(self, folder: Path) -> None:
        self.folder, self.requests, self.asked = folder, 0, Counter()
        self.fail: Callable[[int], str | None] = lambda number: None
        self.ranges, self.sent = True, 0
        source = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                source.answer(self)

            def log_message(self, format: str, *args: object) -> None:
                pass

        class Server(ThreadingHTTPServer):
            request_queue_size = 128  # or else some of many at once try again seconds later

            def handle_error(self, request: object, client_address: object) -> None:
                """Say nothing of connections that were closed on purpose."""

        self.server = Server(("127.0.0.1", 0), Handler)
        self.lock = threading.Lock()
        self.thread = threading.Thread(
            target=self.server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True
        )
        self.thread.start()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server.server_port}"

    def answer(self, to: BaseHTTPRequestHandler) -> None:
        name = to.path.lstrip("/").partition("?")[0]
        with self.lock:
            self.requests += 1
            self.asked[name] += 1
            wrong = self.fail(self.requests)
        path = self.folder / name
        if not path.is_file():
            to.send_error(404)
        elif wrong == "503":
            to.send_error(503)
        elif wrong == "reset":
            linger = struct.pack("ii", 1, 0)
            to.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
            to.connection.close()
        else:
            body = self.part(to, path.read_bytes())
            self.sent += len(body)
            if wrong != "cut":
                to.send_header("Content-Length", str(len(body)))
            to.end_headers()
            content = len(body.rstrip(b"\0")) or len(body)  # to lose some of the padding is no loss
            to.wfile.write(body if wrong is None else body[: content * 2 // 3])

    def part(self, to: BaseHTTPRequestHandler, body: bytes) -> bytes:
        """Begin an answer, and return what is asked for of a file."""
        asked = re.fullmatch(r"bytes=(\d+)-(\d+)", to.headers.get("Range", ""))
        if asked is None or not self.ranges:
            to.send_response(200)
            return body
        first, last, size = int(asked[1]), int(asked[2]), len(body)
        body = body[first : last + 1]
        to.send_response(206 if body else 416)
        if body:
            where = f"{first}-{first + len(body) - 1}"
            to.send_header("Content-Range", f"bytes {where}/{size}")
        return body

    def close(self) -> None:
        """Stop; what asks from now on is refused."""
        self.server.shutdown()
        self.server.server_close()
        self.thread.join()


@pytest.fixture
def source(tmp_path: Path) -> Iterator[Source]:
    """Serve `tmp_path/source` on the web."""
    (tmp_path / "source").mkdir(exist_ok=True)
    source = Source(tmp_path / "source")
    yield source
    source.close()


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Wait a hundredth of the usual time between attempts."""
    monkeypatch.setattr(fetch, "FIRST_WAIT", fetch.FIRST_WAIT / 100)
    monkeypatch.setattr(fetch, "LONGEST_WAIT", fetch.LONGEST_WAIT / 100)


@pytest.fixture(autouse=True)
def nothing_given_up() -> None:
    """Forget which shards other tests could not have."""
    cache._given_up.clear()


def keys(shard: int, clips: int) -> list[str]:
    return [f"{shard:02d}-{n:02d}" for n in range(clips)]


@pytest.fixture(scope="session")
def uneven(write_tar, make_video, tmp_path_factory) -> Path:
    """Make a folder of shards `000.tar` to `004.tar` of 7, 1, 4, 9 and 2 clips."""
    folder = tmp_path_factory.mktemp("uneven")
    for shard, clips in enumerate((7, 1, 4, 9, 2)):
        files = [
            (f"{key}.{ending}", body)
            for key in keys(shard, clips)
            for ending, body in (("mp4", make_video()), ("txt", f"caption of {key}".encode()))
        ]
        write_tar(folder / f"{shard:03d}.tar", files)
    return folder


@pytest.fixture
def children() -> Callable[[], list[int]]:
    """List the processes that this one has started since the test began."""
    path = Path(f"/proc/self/task/{os.getpid()}/children")
    before = path.read_text().split()
    return lambda: [int(pid) for pid in path.read_text().split() if pid not in before]
