"""Batches of clips: which clip a sample is and how it is cut depend only on (seed, sample).

A run can therefore resume at any sample, with any number of workers, without reading earlier ones.
"""

from __future__ import annotations

from collections.abc import Generator, Iterable, Sequence
from contextlib import closing
from dataclasses import dataclass, field, replace
from functools import lru_cache
from typing import Any

import numpy as np
import torch
from torch.utils.data import Dataset

from nasvid.data.decode import Clip, Cut, decode
from nasvid.data.errors import ClipError, DataError
from nasvid.data.pools import pool
from nasvid.data.reels import Reels
from nasvid.data.samples import ClipRef, Skip, read_video
from nasvid.data.shards import ShardIndex
from nasvid.data.workers import run_workers
from nasvid.errors import UserError
from nasvid.host.streams import stream
from nasvid.shapes import Resolution

MAX_REPLACEMENTS = 16
"""Replacements of one sample that may fail before the run stops with an error."""


@dataclass(frozen=True, slots=True)
class BatchRequest:
    """One batch to load: samples `first` to `first + size - 1`, cut to a resolution.

    number: identifies the batch in error messages, for example a training step. Samples are
    numbered continuously through all epochs.
    """

    number: int
    resolution: Resolution
    first: int
    size: int


@dataclass(frozen=True, slots=True)
class Batch:
    """A batch of clips.

    video: `b c t h w`, float32: RGB in [-1, 1], or latents. fps: `b`, float32. keys: the clips'
    keys in their shards. skipped: clips that could not be read and were replaced by others.
    context: embeddings `b l d`, float32, and mask `b l`, bool, if the captions are encoded.
    """

    video: torch.Tensor
    captions: list[str]
    fps: torch.Tensor
    keys: list[str]
    skipped: tuple[Skip, ...]
    context: tuple[torch.Tensor, torch.Tensor] | None = None


def load_batches(
    index: ShardIndex,
    requests: Iterable[BatchRequest],
    *,
    frames: int,
    fps: float,
    flip: bool,
    seed: int,
    workers: int,
    train: bool,
) -> Generator[Batch, None, None]:
    """Yield the batch of each request, in order, decoded by `workers` processes (0: by this one).

    Each epoch of a resolution is a permutation of all clips that it takes. In training, start and
    crop are random, and with `flip` so is mirroring; otherwise clips are cut from the start and the
    centre. frames: of a clip at a resolution without its own. The processes end when the iterator
    is closed or dropped, or when this process dies.

    Raises:
        DataError: there are no clips, too many in a row fail, or a worker process has died.
    """
    if not index.clips:
        reasons = index.left_out() or "no samples"
        raise DataError(f"No clip in {', '.join(index.shards)} is usable: {reasons}")
    dataset = _Batches(index, frames, fps, flip, seed, train, Reels(len(index.clips)))
    return _in_floats(run_workers(dataset, requests, workers))


def _in_floats(batches: Generator[Batch, None, None]) -> Generator[Batch, None, None]:
    with closing(batches):
        for batch in batches:
            yield replace(batch, video=batch.video.float().div_(127.5).sub_(1))


@dataclass(frozen=True, slots=True)
class _Batches(Dataset[Any]):
    """Maps a request to its batch, with `video` still uint8: a quarter of the bytes to transfer.

    A user's error is returned: torch would raise it with the worker's traceback in its message.
    """

    index: ShardIndex
    frames: int
    fps: float
    flip: bool
    seed: int
    train: bool
    reels: Reels
    pools: dict[Resolution, Sequence[int]] = field(default_factory=dict)

    def __getitem__(self, request: BatchRequest) -> Batch | UserError:
        refs: list[ClipRef] = []
        clips: list[Clip] = []
        skipped: list[Skip] = []
        for sample in range(request.first, request.first + request.size):
            try:
                ref, clip = self._sample(sample, request, skipped)
            except UserError as error:
                return error
            refs.append(ref)
            clips.append(clip)
        video = torch.from_numpy(np.stack([clip.frames for clip in clips]))
        return Batch(
            video=video.permute(0, 4, 1, 2, 3).contiguous(),
            captions=[ref.caption for ref in refs],
            fps=torch.tensor([clip.fps for clip in clips], dtype=torch.float32),
            keys=[ref.key for ref in refs],
            skipped=tuple(skipped),
        )

    def _sample(
        self, sample: int, request: BatchRequest, skipped: list[Skip]
    ) -> tuple[ClipRef, Clip]:
        """Decode a sample's clip; a failed one is added to `skipped` and replaced by another."""
        rng = stream(self.seed, "sample", sample)
        clips = self._pool(request.resolution)
        epoch, place = divmod(sample, len(clips))
        number = int(permutation(self.seed, epoch, len(clips))[place])
        for _ in range(1 + MAX_REPLACEMENTS):
            ref = self.index.clips[clips[number]]
            start, top, left, mirror = rng.random(4)
            cut = Cut(start, top, left, self.flip and mirror < 0.5) if self.train else Cut()
            try:
                return ref, self._decode(ref, request, cut)
            except ClipError as error:
                skipped.append(Skip(ref.key, ref.shard, error.reason))
            number = int(rng.integers(len(clips)))
        last, frames = skipped[-1], request.resolution.frames_or(self.frames)
        raise DataError(
            f"Batch {request.number}: none of {1 + MAX_REPLACEMENTS} clips in a row gave "
            f"{frames} frames; the last was '{last.key}' in {last.shard}: {last.reason}"
        )

    def _pool(self, resolution: Resolution) -> Sequence[int]:
        """Return the numbers of the clips that a resolution takes.

        Raises:
            DataError: it takes none.
        """
        if resolution not in self.pools:
            self.pools[resolution] = pool(self.index, resolution, self.frames)
        if not self.pools[resolution]:
            raise DataError(f"No clip in {', '.join(self.index.shards)} is for {resolution.label}")
        return self.pools[resolution]

    def _decode(self, ref: ClipRef, request: BatchRequest, cut: Cut) -> Clip:
        video = read_video(ref, self.index.cache)
        return decode(
            video,
            frames=request.resolution.frames_or(self.frames),
            fps=self.fps,
            height=request.resolution.height,
            width=request.resolution.width,
            cut=cut,
            reel=self.reels.of(video),
        )


@lru_cache(maxsize=2)
def permutation(seed: int, epoch: int, size: int) -> np.ndarray:
    """Return the order of the clips in an epoch; two are cached, since a batch may span both."""
    return stream(seed, "epoch", epoch, size).permutation(size)
