"""Encoding all clips of a recipe once, shard by shard, into a cache."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from zlib import crc32

import numpy as np
import torch
from safetensors.torch import save
from torch.utils.data import Dataset
from webdataset.writer import TarWriter

from nasvid.data.cache import ShardCache
from nasvid.data.decode import Clip, Cut, decode
from nasvid.data.errors import ClipError, DataError
from nasvid.data.paths import Split
from nasvid.data.pools import pool
from nasvid.data.samples import MISSING, UNREACHABLE, ClipRef, read_video
from nasvid.data.shards import ShardIndex
from nasvid.data.wids import ShardCount, write_index
from nasvid.data.workers import run_workers
from nasvid.diffusion.cached_text import CachedText
from nasvid.distributed.ranks import ALONE, Ranks, Stop
from nasvid.distributed.sharing import divide
from nasvid.errors import Damaged, UserError
from nasvid.host.files import atomic_path, write_json
from nasvid.host.reading import as_object, read_json
from nasvid.host.streams import stream
from nasvid.latents.cache import Identity, check_identity, has_size, read_shard
from nasvid.latents.clips import at_once
from nasvid.shapes import Resolution
from nasvid.vae import Vae

SHARD = 256
"""Samples per shard."""
TOGETHER = 8
"""Most clips decoded and encoded at a time."""
DTYPES = {"fp16": torch.float16, "bf16": torch.bfloat16}


@dataclass(frozen=True, slots=True)
class Unit:
    """One sample to encode: a cut of a clip, and its key."""

    key: str
    clip: ClipRef
    cut: Cut


@dataclass(frozen=True, slots=True, kw_only=True)
class Encoding:
    """What a cache is filled with: clips, and what encodes them and their captions.

    workers: processes that decode clips; 0 for this one.
    """

    folder: Path
    identity: Identity
    indexes: Mapping[Split, ShardIndex]
    vae: Vae
    text: CachedText
    workers: int
    pools: dict[tuple[Split, Resolution], Sequence[int]] = field(default_factory=dict)

    def pool(self, split: Split, resolution: Resolution) -> Sequence[int]:
        """Return the numbers of the clips that a resolution takes."""
        key = (split, resolution)
        if key not in self.pools:
            self.pools[key] = pool(self.indexes[split], resolution, self.identity.frames)
        return self.pools[key]

    @property
    def pieces(self) -> list[Piece]:
        """All shards of the cache."""
        return [
            Piece(resolution, split, number)
            for resolution in self.identity.resolutions
            for split in self.indexes
            for number in range(-(-self._total(split, resolution) // SHARD))
        ]

    @property
    def samples(self) -> int:
        """How many samples the cache has if no clip is left out."""
        return sum(map(self.size, self.pieces))

    def size(self, piece: Piece) -> int:
        """Return how many samples a shard has if no clip is left out."""
        return min(SHARD, self._total(piece.split, piece.resolution) - piece.number * SHARD)

    def units(self, piece: Piece) -> list[Unit]:
        """Return the samples of a shard."""
        clips, numbers = self.indexes[piece.split].clips, self.pool(piece.split, piece.resolution)
        first, cuts, units = piece.number * SHARD, self._cuts(piece.split), []
        for place in range(first, first + self.size(piece)):
            number, cut = numbers[place // cuts], place % cuts
            where = self._cut(number, cut) if piece.split == "train" else Cut()
            units.append(Unit(f"{number:08d}-{cut}", clips[number], where))
        return units

    def _cut(self, number: int, cut: int) -> Cut:
        start, top, left, mirror = stream(self.identity.seed, "cached cut", number, cut).random(4)
        return Cut(start, top, left, self.identity.flip and mirror < 0.5)

    def _total(self, split: Split, resolution: Resolution) -> int:
        return len(self.pool(split, resolution)) * self._cuts(split)

    def _cuts(self, split: Split) -> int:
        return self.identity.cuts if split == "train" else 1


@dataclass(frozen=True, slots=True)
class Piece:
    """One shard of a cache."""

    resolution: Resolution
    split: Split
    number: int

    def path(self, folder: Path) -> Path:
        """Return the shard's path in a cache."""
        return folder / str(self.resolution) / self.split / f"{self.number:06d}.tar"


def encode(
    encoding: Encoding,
    *,
    progress: Callable[[int], None],
    stop: Stop,
    ranks: Ranks = ALONE,
) -> dict[str, Any]:
    """Write what is missing in a cache; return its number of samples and what was left out.

    The ranks divide the shards among themselves; only rank 0 returns the numbers. Shards are whole
    or absent. How a clip is cut depends only on (seed, clip, cut), so a killed encode resumes to
    the same bytes, on any number of ranks. A clip that cannot be decoded is left out, with the
    reason.
    progress: receives the number of samples encoded so far, including those that already existed.

    Raises:
        UserError: the folder holds incompatible latents, no clip could be encoded, or a shard can
            no longer be fetched.
        Interrupted: `stop` returned a signal; the shards written are kept.
        RankLost: another rank has ended.
    """
    missing = ranks.agree(ranks.rank0_does(lambda: _begin(encoding), stop) or [])
    progress(encoding.samples - sum(encoding.size(piece) for piece in missing))

    def make(piece: Piece) -> None:
        _write_shard(encoding, piece)
        progress(encoding.size(piece))

    divide(ranks, missing, make, stop)
    return ranks.rank0_does(lambda: _finish(encoding), stop) or {}


def _begin(encoding: Encoding) -> list[Piece]:
    """Write down what a cache is made with; return the shards that it lacks."""
    check_identity(encoding.folder, encoding.identity)
    write_json(encoding.folder / "cache.json", encoding.identity.to_json())
    return [
        piece
        for piece in encoding.pieces
        if _made(piece.path(encoding.folder), encoding.size(piece)) is None
    ]


def _finish(encoding: Encoding) -> dict[str, Any]:
    """Write down that a cache is complete; return what it holds."""
    counts: dict[str, Any] = {}
    for piece in encoding.pieces:
        path = piece.path(encoding.folder)
        made = _made(path, encoding.size(piece))
        assert made is not None
        nothing = {"samples": 0, "skipped": [], "shards": {}}
        count = counts.setdefault(f"{piece.resolution}/{piece.split}", nothing)
        count["samples"] += made["samples"]
        count["skipped"] += made["skipped"]
        count["shards"][path.name] = {name: made[name] for name in ("bytes", "samples")}
    for place, count in counts.items():
        if not count["samples"]:
            resolution, split = place.split("/")
            label = Resolution.parse(resolution).label
            raise UserError(f"No clip of the {split} data could be encoded at {label}")
        of = [
            ShardCount(name, made["samples"], made["bytes"])
            for name, made in count["shards"].items()
        ]
        write_index(encoding.folder / place, of)
    write_json(encoding.folder / "complete.json", counts)
    return counts


def _made(path: Path, units: int) -> dict[str, Any] | None:
    """Return what is known of a shard that was made of some units; None if it has to be made."""
    try:
        made = read_json(path.with_suffix(".json"), as_object)
    except Damaged:
        return None
    if made is None or not has_size(path, made.get("bytes", -1)):
        return None
    intact = len(read_shard(path)) == made["samples"] == units - len(made["skipped"])
    return made if intact else None


@dataclass(frozen=True, slots=True)
class _Decoded(Dataset[Any]):
    """Maps a unit's index to its frames, or to the reason why it has none."""

    units: list[Unit]
    cache: ShardCache | None
    resolution: Resolution
    frames: int
    fps: float

    def __getitem__(self, number: int) -> tuple[int, Clip | str] | UserError:
        unit = self.units[number]
        try:
            clip = decode(
                read_video(unit.clip, self.cache),
                frames=self.resolution.frames_or(self.frames),
                fps=self.fps,
                height=self.resolution.height,
                width=self.resolution.width,
                cut=unit.cut,
            )
        except ClipError as error:
            if error.reason in (MISSING, UNREACHABLE):  # a gap in the cache would stay
                done = "fetched" if error.reason == UNREACHABLE else "read"
                return DataError(
                    f"{unit.clip.shard} can no longer be {done}: {error.__cause__}. The latents "
                    "encoded so far are kept; resume with the same command"
                )
            return number, error.reason
        except UserError as error:
            return error
        return number, clip


def _write_shard(encoding: Encoding, piece: Piece) -> None:
    """Write the samples of a shard, and beside it how many, its size, and those left out."""
    units, identity = encoding.units(piece), encoding.identity
    cache = encoding.indexes[piece.split].cache
    dataset = _Decoded(units, cache, piece.resolution, identity.frames, identity.fps)
    captions = list(dict.fromkeys(unit.clip.caption for unit in units))
    text = {caption: tensors for caption, *tensors in encoding.text.halves(captions)}
    skipped: list[dict[str, str]] = []
    together = at_once(TOGETHER, identity.frames, piece.resolution)
    path = piece.path(encoding.folder)
    with atomic_path(path) as temporary:
        with (
            TarWriter(str(temporary), mtime=0, encoder=False) as shard,
            closing(run_workers(dataset, range(len(units)), encoding.workers)) as results,
        ):
            pending: list[tuple[Unit, Clip]] = []
            for number, clip in results:
                if isinstance(clip, str):
                    skipped.append({"key": units[number].clip.key, "reason": clip})
                    continue
                pending.append((units[number], clip))
                if len(pending) == together:
                    _write(shard, pending, encoding, text)
                    pending = []
            _write(shard, pending, encoding, text)
        size, made = temporary.stat().st_size, len(units) - len(skipped)
        about = {"bytes": size, "samples": made, "skipped": skipped}
        write_json(path.with_suffix(".json"), about)


def _write(
    shard: TarWriter,
    pending: list[tuple[Unit, Clip]],
    encoding: Encoding,
    text: Mapping[str, Sequence[torch.Tensor]],
) -> None:
    """Encode decoded clips and add them to a shard. text: caption -> embedding and mask."""
    if not pending:
        return
    frames = np.stack([clip.frames for _, clip in pending])
    video = torch.from_numpy(frames).permute(0, 4, 1, 2, 3).float().div_(127.5).sub_(1)
    latents = encoding.vae.encode(video).to("cpu", DTYPES[encoding.identity.dtype])
    # A single entry, because the library writes several in an order that varies between calls.
    identity = {"vae": encoding.identity.vae, "text": encoding.identity.text}
    made_by = {"made_by": json.dumps(identity)}
    for latent, (unit, clip) in zip(latents, pending, strict=True):
        embedding, mask = text[unit.clip.caption]
        tensors = {
            "latent": latent.contiguous(),
            "embedding": embedding.contiguous(),
            "mask": mask.contiguous(),
        }
        content = save(tensors, made_by)
        about = {"caption": unit.clip.caption, "fps": clip.fps, "crc32": crc32(content)}
        shard.write(
            {
                "__key__": unit.key,
                "safetensors": content,
                "json": json.dumps(about).encode(),
            }
        )
