"""The cache of encoded clips: a folder of shards, and the settings that they were made with.

`cache.json` holds those settings; `RESOLUTION/SPLIT/000000.tar` and so on hold one sample per cut
of a clip: `KEY.safetensors` (`latent` `c t h w`; `mask` `l`, which of the caption's tokens are
real, and their `embedding` `n d`, as in `nasvid.data.embeddings`) and `KEY.json` (caption, fps, the
checksum of the tensors). `complete.json` is written once nothing is missing; it
has the size of each shard and how many samples it holds.
"""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from nasvid.data.paths import Split
from nasvid.data.shards import ShardIndex
from nasvid.data.streamed import StreamedShards
from nasvid.data.tar import Member, TarDamaged, members
from nasvid.errors import Damaged, UserError
from nasvid.host.reading import as_object, found_in, named, read_json
from nasvid.latents.captions import TextIdentity
from nasvid.recipe.sections import Recipe
from nasvid.shapes import Resolution

FORMAT = 3
OWN = ("data", "shards")
"""What `nasvid data encode` writes to the folder first: the index, and copies of remote shards."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Identity:
    """Everything that the latents and embeddings of a cache depend on.

    vae, text: identities of the autoencoder and the text encoder. data: split -> fingerprint of its
    shards. seed: of the random cuts. buckets: whether clips were shared by their shapes.
    """

    vae: str
    text: str
    context_len: int
    frames: int
    fps: float
    flip: bool
    cuts: int
    dtype: str
    seed: int
    resolutions: tuple[Resolution, ...]
    data: Mapping[str, str]
    buckets: bool = False

    @classmethod
    def of(
        cls,
        recipe: Recipe,
        vae: str,
        text: str,
        indexes: Mapping[Split, ShardIndex | StreamedShards],
    ) -> Identity:
        """Return the identity that a cache must have to fit a recipe.

        vae, text: identities of the autoencoder and the text encoder.
        """
        assert recipe.vae is not None
        return cls(
            vae=vae,
            text=text,
            context_len=recipe.data.context_len,
            frames=recipe.data.frames,
            fps=recipe.data.fps,
            flip=recipe.data.flip,
            cuts=recipe.vae.cuts,
            dtype=recipe.vae.dtype,
            seed=recipe.seed,
            resolutions=tuple(sorted(recipe.resolutions)),
            data={split: index.fingerprint for split, index in indexes.items()},
            buckets=recipe.data.buckets,
        )

    def to_json(self) -> dict[str, Any]:
        """Return the identity as plain values."""
        plain = asdict(self) | {"resolutions": [each.to_json() for each in self.resolutions]}
        if not self.buckets:
            del plain["buckets"]
        return {"format": FORMAT, **plain}


NAMES = {
    "format": "format",
    "vae": "VAE",
    "text": "text encoder",
    "context_len": "caption length in tokens",
    "frames": "frames per clip",
    "fps": "frames per second",
    "flip": "random mirroring",
    "cuts": "cuts per clip",
    "dtype": "dtype",
    "seed": "seed",
    "resolutions": "resolutions",
    "data": "fingerprints of the shards",
    "buckets": "buckets",
}
"""Key -> its readable name in the error about an incompatible cache."""


@dataclass(frozen=True)
class LatentCache:
    """A complete cache that matches a recipe.

    Samples are found by scanning the headers of its shards.
    """

    folder: Path
    identity: Identity

    @cached_property
    def entries(self) -> dict[tuple[Resolution, str], list[Entry]]:
        """Return (resolution, split) -> the samples, in the order of their shards."""
        return {
            (resolution, split): list(_entries(self.folder / str(resolution) / split))
            for resolution in self.identity.resolutions
            for split in self.identity.data
        }

    def damaged(self) -> list[Path] | None:
        """Return the files that are missing or not as they were written; None if it is incomplete.

        Of shards the sizes and headers are looked at; each sample is checked when it is read.
        """
        path = self.folder / "complete.json"
        try:
            complete = read_json(path, self._shards)
        except Damaged:
            return [path]
        if complete is None:
            return None
        found = Counter(entry.shard for entries in self.entries.values() for entry in entries)
        return [
            shard
            for shard, (size, samples) in complete.items()
            if not has_size(shard, size) or found[str(shard)] != samples
        ]

    def _shards(self, counts: Any) -> dict[Path, tuple[int, int]]:
        """Return the shards in `complete.json`: how many bytes and samples each has."""
        return {
            self.folder / f"{resolution}/{split}" / name: (shard["bytes"], shard["samples"])
            for resolution, split in self.entries
            for name, shard in counts[f"{resolution}/{split}"]["shards"].items()
        }

    def of(self, resolution: Resolution, split: Split) -> list[Entry]:
        """Return the samples of a resolution and split."""
        return self.entries[resolution, split]


@dataclass(frozen=True, slots=True)
class Entry:
    """One sample: its key, and the position of its two members in a shard."""

    shard: str
    key: str
    tensors: Member
    caption: Member


def own_place(shared: Path, identity: Identity | TextIdentity) -> Path:
    """Return the folder for what has an identity, inside one that several data sets share."""
    text = json.dumps(identity.to_json(), sort_keys=True)
    return shared / hashlib.sha256(text.encode()).hexdigest()[:12]


def check_identity(folder: Path, identity: Identity) -> bool:
    """Return whether a folder holds a cache of this identity, complete or not; False if it is new.

    Raises:
        UserError: it holds an incompatible one; the message names what differs.
        Damaged: it is not known what made it.
    """
    path = folder / "cache.json"
    if not path.exists():
        if folder.exists() and any(map(_is_foreign, folder.iterdir())):
            raise UserError(
                f"{folder} is not empty but holds no latents; set vae.cache to another folder"
            )
        return False
    try:
        found = read_json(path, as_object) or {}
    except Damaged as damaged:
        raise Damaged(
            path, damaged.reason, f"delete {folder}, or set vae.cache to another folder"
        ) from None
    check_same(found, identity, f"{folder} holds")
    return True


def check_same(found: Mapping[str, Any], identity: Identity, who: str) -> None:
    """Check that latents were made with the settings of an identity.

    found: the settings they were made with. who: start of the message: `runs/a was trained on`.

    Raises:
        UserError: they were not; the message names what differs.
    """
    plain = identity.to_json()
    for key, name in NAMES.items():
        theirs, wanted = found.get(key), plain.get(key)
        if theirs != wanted:
            raise UserError(
                f"{who} latents made with different settings ({name}: {theirs!r}, in "
                f"the recipe {wanted!r}); restore those settings, or start a new run with "
                "--out"
            )


def open_cache(folder: Path, identity: Identity) -> LatentCache:
    """Open a complete cache.

    Raises:
        UserError: there is none, it is incompatible, not complete, or damaged.
    """
    if not check_identity(folder, identity):
        raise UserError(f"{folder} holds no latents yet; write them with nasvid data encode")
    cache = LatentCache(folder, identity)
    damaged = cache.damaged()
    if damaged is None:
        raise UserError(
            f"The latents in {folder} are incomplete; resume writing them with nasvid data encode"
        )
    if damaged:
        raise Damaged(
            damaged[0],
            "it is not as it was written",
            "encode it again with nasvid run, or with nasvid data encode",
        )
    return cache


def has_size(path: Path, size: int) -> bool:
    """Return whether there is a file of this size."""
    return path.is_file() and path.stat().st_size == size


def _is_foreign(path: Path) -> bool:
    return path.name not in OWN and not path.name.startswith(".")


def _entries(folder: Path) -> list[Entry]:
    return [entry for shard in found_in(folder, "*.tar") for entry in read_shard(shard)]


def read_shard(path: Path) -> list[Entry]:
    """Return the samples of a shard, up to its first damaged header."""
    parts: dict[str, dict[str, Member]] = {}
    if not path.is_file():
        return []
    with named(path), path.open("rb", buffering=0) as file, suppress(TarDamaged):
        for member in members(file):
            key, _, ending = member.name.partition(".")
            if ending in ("safetensors", "json"):
                parts.setdefault(key, {})[ending] = member
    return [
        Entry(str(path), key, found["safetensors"], found["json"])
        for key, found in parts.items()
        if len(found) == 2
    ]
