"""Streaming from a local web server: memory, first batch, disk, and waiting behind a slow one.

    python benchmarks/streaming.py

The set has 10,000 shards of 1,000 samples each, and a wids index that says so. The server makes the
bytes of a shard when it is asked for one: a thousand small real clips. For waiting, the server
sends twice the bytes a second that a step consumes, and a step takes as long as the clips say.
"""

from __future__ import annotations

import argparse
import io
import json
import multiprocessing
import resource
import tarfile
import tempfile
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

from paired import machine

from nasvid.data.cache import ShardCache
from nasvid.data.loader import BatchRequest, Cutting, load_batches
from nasvid.data.samples import read_shard, read_video
from nasvid.data.stored_counts import stored_counts
from nasvid.data.streamed import StreamedShards
from nasvid.shapes import Resolution

SHARDS, SAMPLES = 10_000, 1_000
BATCH = 8
CHUNK = 1 << 14


def shard_of(samples: int) -> bytes:
    """Return a tar of embedded clips, repeated under keys of their own."""
    import nasvid.data

    path = next((Path(nasvid.data.__file__).parent / "embedded" / "train").glob("digits-*.tar"))
    clips = read_shard(str(path), path).clips[:32]
    contents = [(read_video(clip), clip.caption.encode()) for clip in clips]
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as tar:
        for number in range(samples):
            video, caption = contents[number % len(contents)]
            for ending, content in (("mp4", video), ("txt", caption)):
                info = tarfile.TarInfo(f"{number:06d}.{ending}")
                info.size = len(content)
                tar.addfile(info, io.BytesIO(content))
    return buffer.getvalue()


def serve(pipe: Any, shards: int, samples: int, rate: float) -> None:
    """Serve shards that are all alike, at `rate` bytes a second together (0: as fast as it can)."""
    content = shard_of(samples)
    entries = [{"url": f"{n:06d}.tar", "nsamples": samples} for n in range(shards)]
    index = json.dumps({"wids_version": 1, "shardlist": entries}).encode()
    lock, free = threading.Lock(), [time.monotonic()]

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            body = index if self.path.endswith("shardindex.json") else content
            self.send_response(200)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            for at in range(0, len(body), CHUNK):
                if rate:
                    with lock:
                        free[0] = max(free[0], time.monotonic()) + CHUNK / rate
                        due = free[0]
                    time.sleep(max(0.0, due - time.monotonic()))
                self.wfile.write(body[at : at + CHUNK])

        def log_message(self, format: str, *args: object) -> None:
            """Print nothing."""

    class Server(ThreadingHTTPServer):
        def handle_error(self, request: object, client_address: object) -> None:
            """Say nothing of connections that the reader has closed."""

    server = Server(("127.0.0.1", 0), Handler)
    pipe.send((server.server_port, len(content)))
    server.serve_forever()


class Served:
    """A server in a process of its own. size: of each shard, in bytes."""

    def __init__(self, shards: int, samples: int, rate: float = 0.0) -> None:
        ours, theirs = multiprocessing.Pipe()
        self._process = multiprocessing.Process(
            target=serve, args=(theirs, shards, samples, rate), daemon=True
        )
        self._process.start()
        port, self.size = ours.recv()
        self.names = [f"http://127.0.0.1:{port}/{n:06d}.tar" for n in range(shards)]

    def close(self) -> None:
        """End it."""
        self._process.kill()
        self._process.join()


def opened(served: Served, folder: Path, limit: int) -> StreamedShards:
    """Return the shards of a server as a run has them, counted as it counts them."""
    cache = ShardCache(folder / "shards", limit=limit)
    counts = stored_counts(folder / "train.json", served.names, cache)
    return StreamedShards.of(counts, 2, cache)


def requests(batches: int, first: int = 0) -> list[BatchRequest]:
    """Return requests for whole batches from a sample on."""
    at = Resolution.square(64)
    return [BatchRequest(n, at, first + n * BATCH, BATCH) for n in range(batches)]


def memory() -> float:
    """Return the resident memory of this process, in MB."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * resource.getpagesize() / 1e6


def kept(folder: Path) -> int:
    """Return the bytes of the files in the folder of shards."""
    sizes = 0
    for path in (folder / "shards").glob("*"):
        try:
            sizes += path.stat().st_size
        except FileNotFoundError:
            continue
    return sizes


def scale(shards: int, samples: int, batches: int, resume: int) -> dict[str, float]:
    """Measure memory, the first batch, a resumed one, and the disk while batches are read."""
    served = Served(shards, samples)
    limit = 24 * served.size
    cutting = Cutting(frames=8, fps=8.0, flip=False, train=True)
    options = {"cutting": cutting, "seed": 0, "workers": 0}
    with tempfile.TemporaryDirectory() as name:
        folder, before, begun = Path(name), memory(), time.monotonic()
        data = opened(served, folder, limit)
        index = memory() - before
        most, first = 0, 0.0
        for _ in load_batches(data, requests(batches), **options):
            first = first or time.monotonic() - begun
            most = max(most, kept(folder))
        begun = time.monotonic()
        again = load_batches(opened(served, folder, limit), requests(1, resume), **options)
        next(again)
        resumed = time.monotonic() - begun
        again.close()
        grown = memory() - before
    served.close()
    return {
        "samples": float(data.samples),
        "index MB": index,
        "process grew by MB": grown,
        "first batch s": first,
        "resumed batch s": resumed,
        "disk over limit": most / limit,
    }


def waiting(shards: int, samples: int, steps: int, step_seconds: float) -> dict[str, float]:
    """Measure the share of time that steps wait for data, first window and later.

    The server sends twice the bytes that steps consume; a worker decodes.
    """
    size = len(shard_of(samples))
    rate = 2 * BATCH * size / samples / step_seconds
    served = Served(shards, samples, rate)
    cutting = Cutting(frames=8, fps=8.0, flip=False, train=True)
    options = {"cutting": cutting, "seed": 0, "workers": 1}
    waits: list[float] = []
    with tempfile.TemporaryDirectory() as name:
        data = opened(served, Path(name), 40 * size)
        loaded = load_batches(data, requests(steps), **options)
        for _ in range(steps):
            begun = time.monotonic()
            next(loaded)
            waits.append(time.monotonic() - begun)
            time.sleep(step_seconds)
        loaded.close()
    served.close()
    window = 16 * samples // BATCH
    first, later = waits[:window], waits[window:]
    return {
        "steps of a window": float(window),
        "windows": steps / window,
        "waited in the first": sum(first) / (sum(first) + step_seconds * len(first)),
        "waited later": sum(later) / (sum(later) + step_seconds * len(later)),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--steps", type=int, default=250)
    parser.add_argument("--step-seconds", type=float, default=0.5)
    asked = parser.parse_args()
    print(machine())
    for name, value in scale(SHARDS, SAMPLES, 400, 7_654_321).items():
        print(f"  {name}: {value:.4g}")
    for name, value in waiting(400, 25, asked.steps, asked.step_seconds).items():
        print(f"  {name}: {value:.4g}")


if __name__ == "__main__":
    main()
