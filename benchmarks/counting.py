"""Counting the samples of shards on the web without an index: `python benchmarks/counting.py`.

A server on this machine, a process of its own, has a thousand shards of a thousand samples, all the
same file. Prints how long `shard_counts` takes, how many requests and bytes it needs, and the same
of receiving all shards whole.
"""

from __future__ import annotations

import asyncio
import io
import multiprocessing
import os
import re
import tarfile
import tempfile
import time
from multiprocessing.connection import Connection
from pathlib import Path
from urllib.request import urlopen

import click
from paired import machine

from nasvid.data.cache import ShardCache
from nasvid.data.counts import shard_counts
from nasvid.host.words import bytes_text


def write(path: Path, samples: int, clip: int) -> None:
    """Write a tar of samples: a clip of this many zeros, and a caption."""
    with tarfile.open(path, "w") as tar:
        for number in range(samples):
            for ending, size in (("mp4", clip), ("txt", 60)):
                info = tarfile.TarInfo(f"{number:06d}.{ending}")
                info.size = size
                tar.addfile(info, io.BytesIO(bytes(size)))


class Answers(asyncio.Protocol):
    """Answers requests for parts of a file, over connections that are kept."""

    content = b""
    requests = sent = 0

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Remember whom to answer."""
        assert isinstance(transport, asyncio.Transport)
        self.to = transport

    def data_received(self, data: bytes) -> None:
        """Answer a request; one that is in several pieces does not occur here."""
        if b"shardindex.json" in data:
            self.to.write(b"HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n\r\n")
            return
        asked = re.search(rb"[Rr]ange: bytes=(\d+)-(\d+)", data)
        start, end = (int(asked[1]), int(asked[2]) + 1) if asked else (0, len(self.content))
        body = memoryview(self.content)[start:end]
        size = len(self.content)
        where = f"Content-Range: bytes {start}-{start + len(body) - 1}/{size}\r\n" if asked else ""
        status = "206 Partial Content" if asked else "200 OK"
        self.to.write(f"HTTP/1.1 {status}\r\n{where}Content-Length: {len(body)}\r\n\r\n".encode())
        self.to.write(body)
        Answers.requests, Answers.sent = Answers.requests + 1, Answers.sent + len(body)


def serve(path: Path, to: Connection) -> None:
    """Serve a file under all names until told to stop; report requests and bytes when asked."""
    Answers.content = path.read_bytes()

    async def run() -> None:
        loop = asyncio.get_running_loop()
        server = await loop.create_server(Answers, "127.0.0.1", 0)
        to.send(server.sockets[0].getsockname()[1])
        while await loop.run_in_executor(None, to.recv):
            to.send((Answers.requests, Answers.sent))
            Answers.requests = Answers.sent = 0

    asyncio.run(run())


@click.command()
@click.option("--shards", default=1000, show_default=True)
@click.option("--samples", default=1000, show_default=True, help="In each shard.")
@click.option("--clip", default=8000, show_default=True, help="Bytes of a clip.")
def main(shards: int, samples: int, clip: int) -> None:
    """Count the samples of shards on the web, over receiving them whole."""
    print(machine())
    here, there = multiprocessing.Pipe()
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "a.tar"
        write(path, samples, clip)
        server = multiprocessing.Process(target=serve, args=(path, there), daemon=True)
        server.start()
        base = f"http://127.0.0.1:{here.recv()}"
        names = [f"{base}/{number:06d}.tar" for number in range(shards)]
        began, cpu = time.perf_counter(), sum(os.times()[:4])
        counts = shard_counts(names, cache=ShardCache(Path(folder) / "cache"))
        took, cpu = time.perf_counter() - began, sum(os.times()[:4]) - cpu
        assert [count.samples for count in counts] == [samples] * shards
        here.send(True)
        requests, sent = here.recv()
        print(
            f"{shards * samples} samples in {shards} shards of {bytes_text(path.stat().st_size)}: "
            f"{took:.1f} s ({cpu:.1f} s of processors), {requests} requests, {bytes_text(sent)}"
        )
        began, few = time.perf_counter(), names[: max(shards // 50, 1)]
        for name in few:
            with urlopen(name) as response:
                while response.read(1 << 20):
                    pass
        whole = (time.perf_counter() - began) * shards / len(few)
        print(f"receiving them whole, one at a time: about {whole:.1f} s")
        here.send(False)
        server.join()


if __name__ == "__main__":
    main()
