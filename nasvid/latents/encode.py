"""Encoding all clips of a recipe once, shard by shard, into a cache."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from contextlib import closing
from dataclasses import dataclass
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
from nasvid.diffusion.text import CachedText
from nasvid.errors import Damaged, Interrupted, UserError
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


def encode(
    folder: Path,
    identity: Identity,
    indexes: Mapping[Split, ShardIndex],
    vae: Vae,
    text: CachedText,
    *,
    workers: int,
    progress: Callable[[int], None],
    stop: Callable[[], int | None],
) -> dict[str, Any]:
    """Write what is missing in a cache; return its number of samples and what was left out.

    Shards are whole or absent. How a clip is cut depends only on (seed, clip, cut), so a killed
    encode resumes to the same bytes. A clip that cannot be decoded is left out, with the reason.
    progress: receives the number of samples encoded so far, including those that already existed.

    Raises:
        UserError: the folder holds incompatible latents, no clip could be encoded, or a shard can
            no longer be fetched.
        Interrupted: `stop` returned a signal; the shards written are kept.
    """
    check_identity(folder, identity)
    write_json(folder / "cache.json", identity.to_json())
    counts: dict[str, Any] = {}
    for resolution in identity.resolutions:
        for split, index in indexes.items():
            units = list(_units(index, identity, split, resolution))
            place = folder / str(resolution) / split
            skipped: list[dict[str, str]] = []
            shards: dict[str, dict[str, int]] = {}
            for number, start in enumerate(range(0, len(units), SHARD)):
                chosen = units[start : start + SHARD]
                path = place / f"{number:06d}.tar"
                made = _made(path, len(chosen))
                if made is None:
                    if (signal := stop()) is not None:
                        raise Interrupted(signal, "the shards written are kept")
                    _write_shard(
                        path, chosen, index.cache, resolution, identity, vae, text, workers
                    )
                    made = _made(path, len(chosen))
                    assert made is not None
                skipped += made["skipped"]
                shards[path.name] = {name: made[name] for name in ("bytes", "samples")}
                progress(len(chosen))
            if shards:
                write_index(
                    place,
                    [ShardCount(name, of["samples"], of["bytes"]) for name, of in shards.items()],
                )
            if len(skipped) == len(units):
                raise UserError(
                    f"No clip of the {split} data could be encoded at {resolution.label}"
                )
            counts[f"{resolution}/{split}"] = {
                "samples": len(units) - len(skipped),
                "skipped": skipped,
                "shards": shards,
            }
    write_json(folder / "complete.json", counts)
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


def samples(identity: Identity, indexes: Mapping[Split, ShardIndex]) -> int:
    """Return how many samples a cache has if no clip is left out."""
    return sum(
        len(pool(index, resolution, identity.frames)) * (identity.cuts if split == "train" else 1)
        for resolution in identity.resolutions
        for split, index in indexes.items()
    )


def _units(
    index: ShardIndex, identity: Identity, split: Split, resolution: Resolution
) -> Iterator[Unit]:
    for number in pool(index, resolution, identity.frames):
        for cut in range(identity.cuts if split == "train" else 1):
            where = Cut()
            if split == "train":
                rng = stream(identity.seed, "cached cut", number, cut)
                start, top, left, mirror = rng.random(4)
                where = Cut(start, top, left, identity.flip and mirror < 0.5)
            yield Unit(f"{number:08d}-{cut}", index.clips[number], where)


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


def _write_shard(
    path: Path,
    units: list[Unit],
    cache: ShardCache | None,
    resolution: Resolution,
    identity: Identity,
    vae: Vae,
    text: CachedText,
    workers: int,
) -> None:
    """Write the samples of a shard, and beside it how many, its size, and those left out."""
    dataset = _Decoded(units, cache, resolution, identity.frames, identity.fps)
    skipped: list[dict[str, str]] = []
    together = at_once(TOGETHER, identity.frames, resolution)
    with atomic_path(path) as temporary:
        with (
            TarWriter(str(temporary), mtime=0, encoder=False) as shard,
            closing(run_workers(dataset, range(len(units)), workers)) as results,
        ):
            pending: list[tuple[Unit, Clip]] = []
            for number, clip in results:
                if isinstance(clip, str):
                    skipped.append({"key": units[number].clip.key, "reason": clip})
                    continue
                pending.append((units[number], clip))
                if len(pending) == together:
                    _write(shard, pending, identity, vae, text)
                    pending = []
            _write(shard, pending, identity, vae, text)
        size, made = temporary.stat().st_size, len(units) - len(skipped)
        about = {"bytes": size, "samples": made, "skipped": skipped}
        write_json(path.with_suffix(".json"), about)


def _write(
    shard: TarWriter,
    pending: list[tuple[Unit, Clip]],
    identity: Identity,
    vae: Vae,
    text: CachedText,
) -> None:
    if not pending:
        return
    frames = np.stack([clip.frames for _, clip in pending])
    video = torch.from_numpy(frames).permute(0, 4, 1, 2, 3).float().div_(127.5).sub_(1)
    dtype = DTYPES[identity.dtype]
    latents = vae.encode(video).to("cpu", dtype)
    context, mask = text([unit.clip.caption for unit, _ in pending])
    # A single entry, because the library writes several in an order that varies between calls.
    made_by = {"made_by": json.dumps({"vae": identity.vae, "text": identity.text})}
    for row, (unit, clip) in enumerate(pending):
        tensors = {
            "latent": latents[row].contiguous(),
            "embedding": context[row].to(dtype).contiguous(),
            "mask": mask[row].contiguous(),
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
