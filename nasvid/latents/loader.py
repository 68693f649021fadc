"""Batches of latents from a cache, in an order that depends only on (seed, sample)."""

from __future__ import annotations

import json
import os
from collections.abc import Generator, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from zlib import crc32

import torch
from safetensors import SafetensorError
from safetensors.torch import load
from torch.utils.data import Dataset

from nasvid.data.embeddings import padded, stacked
from nasvid.data.errors import DataError
from nasvid.data.indexed import permutation
from nasvid.data.loader import MAX_REPLACEMENTS, Batch, BatchRequest
from nasvid.data.paths import Split
from nasvid.data.samples import Skip
from nasvid.data.tar import Member
from nasvid.data.workers import run_workers
from nasvid.errors import UserError
from nasvid.host.streams import stream
from nasvid.latents.cache import Entry, LatentCache
from nasvid.shapes import Resolution

MAX_SAMPLE = 1 << 30
"""A header that claims more bytes than this for one sample is considered damaged."""


def load_latents(
    cache: LatentCache,
    requests: Iterable[BatchRequest],
    *,
    split: Split,
    seed: int,
    workers: int,
) -> Generator[Batch, None, None]:
    """Yield the batch of each request, in order: latents, captions and their embeddings.

    Each epoch of a resolution is a permutation of all its samples. A damaged sample is replaced by
    another, as in `load_batches`.

    Raises:
        DataError: nothing can be read, or a worker process has died.
    """
    entries = {resolution: cache.of(resolution, split) for resolution in cache.identity.resolutions}
    for resolution, found in entries.items():
        if not found:
            where = cache.folder / str(resolution) / split
            raise DataError(
                f"{where} has no intact sample; delete {cache.folder} and run nasvid data encode"
            )
    return run_workers(_Latents(entries, seed), requests, workers)


@dataclass(frozen=True, slots=True)
class _Latents(Dataset[Any]):
    """Maps a request to its batch."""

    entries: dict[Resolution, list[Entry]]
    seed: int

    def __getitem__(self, request: BatchRequest) -> Batch | UserError:
        skipped: list[Skip] = []
        try:
            samples = [
                self._sample(number, request, skipped)
                for number in range(request.first, request.first + request.size)
            ]
        except UserError as error:
            return error
        tensors = [tensors for _, tensors, _ in samples]
        return Batch(
            video=torch.stack([t["latent"] for t in tensors]).float(),
            captions=[about["caption"] for _, _, about in samples],
            fps=torch.tensor([about["fps"] for _, _, about in samples], dtype=torch.float32),
            keys=[entry.key for entry, _, _ in samples],
            skipped=tuple(skipped),
            context=stacked([(padded(t["embedding"], t["mask"]), t["mask"]) for t in tensors]),
        )

    def _sample(
        self, sample: int, request: BatchRequest, skipped: list[Skip]
    ) -> tuple[Entry, dict[str, torch.Tensor], dict[str, Any]]:
        entries = self.entries[request.resolution]
        epoch, place = divmod(sample, len(entries))
        number = int(permutation(self.seed, epoch, len(entries))[place])
        rng = stream(self.seed, "sample", sample)
        for _ in range(1 + MAX_REPLACEMENTS):
            entry = entries[number]
            try:
                content = _read(entry.shard, entry.tensors)
                about = json.loads(_read(entry.shard, entry.caption))
                tensors = load(content)
                _check(tensors, about, content)
                return entry, tensors, about
            except OSError as error:
                raise DataError(f"{entry.shard} cannot be read: {error.strerror}") from error
            except (ValueError, SafetensorError):
                skipped.append(Skip(entry.key, entry.shard, "damaged latent"))
            number = int(rng.integers(len(entries)))
        raise DataError(
            f"Batch {request.number}: {1 + MAX_REPLACEMENTS} samples in a row are damaged, the "
            f"last '{skipped[-1].key}' in {skipped[-1].shard}; delete the cache and encode again"
        )


def _check(tensors: dict[str, torch.Tensor], about: Any, content: bytes) -> None:
    """Raise ValueError if a sample does not have the form that `encode` writes."""
    if set(tensors) != {"latent", "embedding", "mask"} or tensors["latent"].dim() != 4:
        raise ValueError("unexpected tensors")
    if len(tensors["embedding"]) != tensors["mask"].sum():
        raise ValueError("it has another number of tokens")
    if not isinstance(about, dict) or not isinstance(about.get("caption"), str):
        raise ValueError("no caption")
    if not isinstance(about.get("fps"), int | float):
        raise ValueError("no fps")
    if about.get("crc32") != crc32(content):
        raise ValueError("its checksum is another")


def _read(shard: str, member: Member) -> bytes:
    if member.size > MAX_SAMPLE:
        raise ValueError(f"{member.size} bytes are more than {MAX_SAMPLE}")
    with Path(shard).open("rb") as file:
        found = os.pread(file.fileno(), member.size, member.offset)
    if len(found) < member.size:
        raise ValueError("the shard is truncated")
    return found
