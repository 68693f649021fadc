"""Batches of clips: which clip a sample is and how it is cut depend only on (seed, sample).

A run can therefore resume at any sample, with any number of workers, without reading earlier ones.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterable
from contextlib import closing
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch.utils.data import Dataset

from nasvid.data.decode import Clip, Cut, decode
from nasvid.data.embeddings import Captioned, EncodeClips
from nasvid.data.errors import ClipError, DataError
from nasvid.data.indexed import IndexedClips
from nasvid.data.reels import Reels
from nasvid.data.samples import Content, Skip, advice
from nasvid.data.shards import ShardIndex
from nasvid.data.source import Source
from nasvid.data.streamed import StreamedClips, StreamedShards
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
    numbered continuously through all epochs. whole: the samples of the batch of all ranks, if this
    is only one rank's share of it; streamed shards hand them out to the ranks by streams.
    """

    number: int
    resolution: Resolution
    first: int
    size: int
    whole: range | None = None

    @property
    def share(self) -> range:
        """The numbers of its samples, as far as the order is that of their numbers."""
        return range(self.first, self.first + self.size)


@dataclass(frozen=True, slots=True)
class Batch:
    """A batch of clips.

    video: `b c t h w`, float32: RGB in [-1, 1], or latents. fps: `b`, float32. keys: the clips'
    keys in their shards. skipped: clips that could not be read and were replaced by others.
    context: embeddings `b l d` and mask `b l`, bool, if the captions are encoded.
    """

    video: torch.Tensor
    captions: list[str]
    fps: torch.Tensor
    keys: list[str]
    skipped: tuple[Skip, ...]
    context: tuple[torch.Tensor, torch.Tensor] | None = None


Load = Callable[[Iterable[BatchRequest]], Generator[Batch, None, None]]
"""Requests -> their batches, in order."""


@dataclass(frozen=True, slots=True)
class Cutting:
    """How clips are cut: in training start and crop are random, and with `flip` so is mirroring.

    Otherwise clips are cut from the start and the centre. frames: of a clip at a resolution without
    its own. fps: their rate.
    """

    frames: int
    fps: float
    flip: bool
    train: bool

    def cut(self, start: float, top: float, left: float, mirror: float) -> Cut:
        """Return where a clip is cut, from four random numbers in [0, 1)."""
        return Cut(start, top, left, self.flip and mirror < 0.5) if self.train else Cut()


def load_batches(
    data: ShardIndex | StreamedShards,
    requests: Iterable[BatchRequest],
    *,
    cutting: Cutting,
    seed: int,
    workers: int,
    text: EncodeClips | None = None,
) -> Generator[Batch, None, None]:
    """Yield the batch of each request, in order, decoded by `workers` processes (0: by this one).

    Each epoch is a permutation: of all clips of an index that a resolution takes, or of all samples
    of streamed shards. The processes end when the iterator is closed or dropped, or when this
    process dies. text: gives the captions' embeddings, in those processes.

    Raises:
        DataError: there are no clips, too many in a row fail, or a worker process has died.
    """
    if isinstance(data, StreamedShards):
        source = StreamedClips(data, seed)
    else:
        source = IndexedClips(data, cutting.frames, seed)
    if not data.samples:
        left_out = "" if isinstance(data, StreamedShards) else data.left_out()
        raise DataError(
            f"No clip in {', '.join(data.shards)} is usable: {left_out or 'no samples'}"
        )
    dataset = _Batches(source, cutting, seed, Reels(data.samples), text)
    return _in_floats(source, run_workers(dataset, requests, workers))


def _in_floats(
    source: Source, batches: Generator[Batch, None, None]
) -> Generator[Batch, None, None]:
    with closing(source), closing(batches):
        for batch in batches:
            yield replace(batch, video=batch.video.float().div_(127.5).sub_(1))


@dataclass(frozen=True, slots=True)
class _Batches(Dataset[Any]):
    """Maps a request to its batch, with `video` still uint8: a quarter of the bytes to transfer.

    A user's error is returned: torch would raise it with the worker's traceback in its message.
    """

    source: Source
    cutting: Cutting
    seed: int
    reels: Reels
    text: EncodeClips | None = None

    def __getitem__(self, request: BatchRequest) -> Batch | UserError:
        keys: list[str] = []
        captions: list[Captioned] = []
        clips: list[Clip] = []
        skipped: list[Skip] = []
        try:
            for sample in self.source.samples(request.whole or request.share, request.share):
                place, caption, clip = self._sample(sample, request, skipped)
                keys.append(self.source.key(place))
                captions.append((self.source.shard(place), caption))
                clips.append(clip)
            context = self.text(captions) if self.text else None
        except UserError as error:
            return error
        video = torch.from_numpy(np.stack([clip.frames for clip in clips]))
        return Batch(
            video=video.permute(0, 4, 1, 2, 3).contiguous(),
            captions=[caption for _, caption in captions],
            fps=torch.tensor([clip.fps for clip in clips], dtype=torch.float32),
            keys=keys,
            skipped=tuple(skipped),
            context=context,
        )

    def _sample(
        self, sample: int, request: BatchRequest, skipped: list[Skip]
    ) -> tuple[Any, str, Clip]:
        """Return a sample's place in its source, caption and clip.

        A failed one is added to `skipped` and replaced by another.
        """
        rng = stream(self.seed, "sample", sample)
        source, resolution = self.source, request.resolution
        place = source.first(sample, resolution)
        for attempt in range(1 + MAX_REPLACEMENTS):
            start, top, left, mirror = rng.random(4)
            cut = self.cutting.cut(start, top, left, mirror)
            try:
                content = source.read(place)
                return place, content.caption, self._decode(content, request, cut)
            except ClipError as error:
                skipped.append(source.skip(place, error.reason))
            place = source.another(sample, resolution, attempt, rng)
        last, frames = skipped[-1], resolution.frames_or(self.cutting.frames)
        raise DataError(
            f"Batch {request.number}: none of {1 + MAX_REPLACEMENTS} clips in a row gave "
            f"{frames} frames; the last was '{last.key}' in {last.shard}: {last.reason}"
            f"{advice(last.reason)}"
        )

    def _decode(self, content: Content, request: BatchRequest, cut: Cut) -> Clip:
        return decode(
            content.video,
            frames=request.resolution.frames_or(self.cutting.frames),
            fps=self.cutting.fps,
            height=request.resolution.height,
            width=request.resolution.width,
            cut=cut,
            reel=self.reels.of(content.video),
        )
