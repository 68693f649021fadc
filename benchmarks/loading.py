"""Batches from the loader, over bare decoding of the same clips in the same process.

    python benchmarks/loading.py

The bare decoder knows nothing of shards, crops, order or captions: it reads the frames of each
mp4 and no more.
"""

from __future__ import annotations

import io
from pathlib import Path

import av
from paired import machine, paired

from nasvid.data.loader import BatchRequest, Cutting, load_batches
from nasvid.data.shards import index_shards
from nasvid.shapes import Resolution

CLIPS = 64


def main() -> None:
    print(machine())
    index = index_shards("embedded", Path(), "train")
    encoded = []
    for clip in index.clips[:CLIPS]:
        with open(clip.shard, "rb") as shard:
            shard.seek(clip.video[0])
            encoded.append(shard.read(clip.video[1]))

    def load(workers: int, batches: int) -> None:
        requests = [
            BatchRequest(number=i, resolution=Resolution.square(64), first=i * CLIPS, size=CLIPS)
            for i in range(batches)
        ]
        loaded = load_batches(
            index,
            requests,
            seed=0,
            workers=workers,
            cutting=Cutting(frames=16, fps=8.0, flip=False, train=True),
        )
        for _ in loaded:
            pass

    def bare(rounds: int) -> None:
        for _ in range(rounds):
            for content in encoded:
                with av.open(io.BytesIO(content), "r") as container:
                    stream = container.streams.video[0]
                    stream.thread_type, stream.thread_count = "SLICE", 1
                    for frame in container.decode(stream):
                        frame.to_ndarray(format="rgb24")

    for workers, batches in ((0, 4), (1, 16), (2, 16)):
        result = paired(
            lambda workers=workers, batches=batches: load(workers, batches),
            lambda batches=batches: bare(batches),
            rounds=5,
            warm_up=1,
        )
        rate = batches * CLIPS / result.first
        print(f"{workers} workers: {rate:.0f} clips/s; seconds over bare decoding: {result}")


if __name__ == "__main__":
    main()
