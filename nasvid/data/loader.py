"""Batches of clips: which clip a sample is and how it is cut depend on (seed, sample) alone.

So a run can resume at any sample, with any number of workers, without reading what came before.
"""

from __future__ import annotations

import signal
import threading
from collections.abc import Generator, Iterable, Iterator
from contextlib import closing
from dataclasses import dataclass, replace
from functools import lru_cache, partial
from typing import Any

import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset

from nasvid.data import cancel
from nasvid.data.cache import ShardCache
from nasvid.data.decode import Clip, Cut, decode
from nasvid.data.errors import ClipError, DataError
from nasvid.data.samples import ClipRef, Skip, read_video
from nasvid.data.shards import ShardIndex
from nasvid.host.streams import stream

MAX_REPLACEMENTS = 16
"""Replacements for one sample that may fail before the run stops with an error."""
PREFETCH = 3
"""Batches that each worker decodes ahead."""


@dataclass(frozen=True, slots=True)
class BatchRequest:
    """One batch to load: samples `first` to `first + size - 1`, at height x width pixels.

    number: identifies the batch in error messages, for example a training step. Samples are
    numbered continuously through all epochs.
    """

    number: int
    height: int
    width: int
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

    Each epoch is a permutation of all clips. In training, start and crop are random, and with
    `flip` so is mirroring; otherwise clips are cut from the start and the centre. The processes
    end when the iterator is closed or dropped, or when this process dies.

    Raises:
        DataError: there are no clips, too many in a row fail, or a worker process has died.
    """
    if not index.clips:
        reasons = index.left_out() or "no samples"
        raise DataError(f"No clip in {', '.join(index.shards)} is usable: {reasons}")
    dataset = _Batches(index.clips, index.cache, frames, fps, flip, seed, train)
    return _in_floats(run_workers(dataset, requests, workers))


def _in_floats(batches: Generator[Batch, None, None]) -> Generator[Batch, None, None]:
    with closing(batches):
        for batch in batches:
            yield replace(batch, video=batch.video.float().div_(127.5).sub_(1))


def run_workers(
    dataset: Dataset[Any], requests: Iterable[Any], workers: int
) -> Generator[Any, None, None]:
    """Yield `dataset[request]` of each request, in order, made by `workers` processes (0: by this).

    The processes end when the iterator is closed or dropped, or when this process dies.

    Raises:
        DataError: a process has died, or the dataset has returned this error.
    """
    ending = cancel.Flag()
    loader = DataLoader(
        dataset,
        batch_size=None,
        sampler=requests,
        num_workers=workers,
        prefetch_factor=PREFETCH if workers else None,
        multiprocessing_context="fork" if workers else None,
        worker_init_fn=partial(_begin, ending),
        collate_fn=_unchanged,
        generator=torch.Generator(),
    )
    results = _start(loader)
    try:
        while (result := _next(results)) is not None:
            if isinstance(result, DataError):
                raise result
            yield result
    finally:
        ending.set()
        del results  # the last reference: torch ends the workers


def _next(results: Iterator[Any]) -> Any:
    try:
        return next(results, None)
    except (RuntimeError, EOFError, ConnectionError, FileNotFoundError) as error:
        # The other errors: it died between announcing a batch and handing over its memory.
        if isinstance(error, RuntimeError) and "DataLoader worker" not in str(error):
            raise
        return DataError(
            f"A loader process died, often because memory ran out: {error}; try fewer data.workers"
        )


def _start(loader: DataLoader[Any]) -> Iterator[Any]:
    """Start the workers without torch's SIGCHLD handler.

    That would raise a worker's death anywhere in the caller's code; `next` notices it as well.
    """
    if threading.current_thread() is not threading.main_thread():
        return iter(loader)
    before = signal.getsignal(signal.SIGCHLD) or signal.SIG_DFL
    batches = iter(loader)
    signal.signal(signal.SIGCHLD, before)
    return batches


def _begin(ending: cancel.Flag, worker: int) -> None:
    """Leave requests to stop to the parent, which may have a step and a checkpoint to finish.

    They may be sent to the whole process group. The worker ends when the parent asks it to or dies,
    and then cancels its downloads.
    """
    del worker
    cancel.follow(ending)
    for each in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(each, signal.SIG_IGN)


def _unchanged(batch: Any) -> Any:
    return batch


@dataclass(frozen=True, slots=True)
class _Batches(Dataset[Any]):
    """Maps a request to its batch, with `video` still uint8: a quarter of the bytes to hand over.

    A DataError is returned: torch would raise it with the worker's traceback in its message.
    """

    clips: tuple[ClipRef, ...]
    cache: ShardCache | None
    frames: int
    fps: float
    flip: bool
    seed: int
    train: bool

    def __getitem__(self, request: BatchRequest) -> Batch | DataError:
        refs: list[ClipRef] = []
        clips: list[Clip] = []
        skipped: list[Skip] = []
        for sample in range(request.first, request.first + request.size):
            try:
                ref, clip = self._sample(sample, request, skipped)
            except DataError as error:
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
        """Decode a sample's clip; one that fails is added to skipped and replaced by another."""
        rng = stream(self.seed, "sample", sample)
        epoch, place = divmod(sample, len(self.clips))
        number = permutation(self.seed, epoch, len(self.clips))[place]
        for _ in range(1 + MAX_REPLACEMENTS):
            ref = self.clips[number]
            start, top, left, mirror = rng.random(4)
            cut = Cut(start, top, left, self.flip and mirror < 0.5) if self.train else Cut()
            try:
                return ref, self._decode(ref, request, cut)
            except ClipError as error:
                skipped.append(Skip(ref.key, ref.shard, error.reason))
            number = rng.integers(len(self.clips))
        last = skipped[-1]
        raise DataError(
            f"Batch {request.number}: none of {1 + MAX_REPLACEMENTS} clips in a row gave "
            f"{self.frames} frames; the last was '{last.key}' in {last.shard}: {last.reason}"
        )

    def _decode(self, ref: ClipRef, request: BatchRequest, cut: Cut) -> Clip:
        return decode(
            read_video(ref, self.cache),
            frames=self.frames,
            fps=self.fps,
            height=request.height,
            width=request.width,
            cut=cut,
        )


@lru_cache(maxsize=2)
def permutation(seed: int, epoch: int, size: int) -> np.ndarray:
    """Return the order of the clips in an epoch; two are cached, since a batch may span both."""
    return stream(seed, "epoch", epoch, size).permutation(size)
