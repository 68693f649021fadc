"""What is in WebDataset shards: an index of clips, made without decoding any.

A shard may come from anyone. Only members with the endings below are ever read, nothing in it is
unpickled or executed; everything else is counted and left alone.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from nasvid.data.errors import ClipError
from nasvid.data.paths import Split, shard_paths
from nasvid.data.tar import Member, TarDamaged, members

VIDEO_ENDINGS = frozenset({"avi", "mkv", "mov", "mp4", "webm"})
MAX_CAPTION = 1 << 16
"""Bytes of a caption or its JSON; what is longer is not a caption."""


@dataclass(frozen=True, slots=True)
class ClipRef:
    """Where a clip is, and what it shows.

    shard: path of the tar; key: the sample's name in it; video: offset and size of the encoded
    video in the tar, in bytes.
    """

    shard: str
    key: str
    video: tuple[int, int]
    caption: str


@dataclass(frozen=True, slots=True)
class Skip:
    """A sample that cannot be used and why; with an empty key, what is missing of a whole shard."""

    key: str
    shard: str
    reason: str


@dataclass(frozen=True, slots=True)
class ShardIndex:
    """The usable clips of some shards, in their order.

    shards: paths. ignored: members that are neither video nor caption. fingerprint: sha256 of the
    shards' names and sizes and of the clips' keys and captions.
    """

    shards: tuple[str, ...]
    clips: tuple[ClipRef, ...]
    skipped: tuple[Skip, ...]
    ignored: int
    fingerprint: str

    def reasons(self) -> dict[str, int]:
        """Return how many samples were skipped for each reason, most frequent first."""
        return dict(Counter(skip.reason for skip in self.skipped).most_common())


def index_shards(spec: str | list[str], base: Path, split: Split = "train") -> ShardIndex:
    """Index the shards that `spec` names; see `shard_paths` for what it may say.

    A sample is one video (mp4, webm, mkv, mov, avi) and its caption (txt, or json with "caption");
    its key is the member's name up to the first dot. Samples that are not are in `skipped`.

    Raises:
        DataError: a shard does not exist.
    """
    paths = shard_paths(spec, base, split)
    clips: list[ClipRef] = []
    skipped: list[Skip] = []
    ignored = 0
    digest = hashlib.sha256()
    for path in paths:
        digest.update(f"{path.name}\0{path.stat().st_size}\0".encode("utf-8", "surrogateescape"))
        samples, skips, others = _read_shard(path)
        for clip in samples:
            text = f"{clip.key}\0{clip.caption}\0"
            digest.update(text.encode("utf-8", "surrogateescape"))
        clips += samples
        skipped += skips
        ignored += others
    shards = tuple(map(str, paths))
    return ShardIndex(shards, tuple(clips), tuple(skipped), ignored, digest.hexdigest())


def read_video(clip: ClipRef) -> bytes:
    """Return the encoded video of a clip.

    Raises:
        ClipError: the shard is gone or shorter than when it was indexed.
    """
    offset, size = clip.video
    try:
        with Path(clip.shard).open("rb") as shard:
            shard.seek(offset)
            video = shard.read(size)
    except OSError as error:
        raise ClipError("unreadable shard") from error
    if len(video) < size:
        raise ClipError("truncated shard")
    return video


def _read_shard(path: Path) -> tuple[list[ClipRef], list[Skip], int]:
    """Return clips, skips and the number of ignored members of one shard."""
    samples: dict[str, dict[str, list[Member]]] = {}
    damage, ignored = "", 0
    with path.open("rb", buffering=0) as file:
        try:
            for member in members(file):
                key, kind = _key_and_kind(member.name)
                ignored += not kind
                if kind:
                    samples.setdefault(key, {}).setdefault(kind, []).append(member)
        except TarDamaged as error:
            damage = str(error)
        found = [_clip(str(path), key, sample, file) for key, sample in samples.items()]
    if damage and found and isinstance(found[-1], Skip):
        found[-1] = Skip(found[-1].key, str(path), damage)
    elif damage:
        found.append(Skip("", str(path), damage))
    clips = [clip for clip in found if isinstance(clip, ClipRef)]
    return clips, [skip for skip in found if isinstance(skip, Skip)], ignored


def _key_and_kind(name: str) -> tuple[str, str]:
    """Split `dir/key.ending` as WebDataset does, at the first dot of the base name.

    The kind is "video", "txt" or "json", from the last ending; empty for everything else.
    """
    folder, slash, base = name.rpartition("/")
    key, _, endings = base.partition(".")
    ending = endings.rpartition(".")[2].lower()
    kind = "video" if ending in VIDEO_ENDINGS else ending if ending in {"txt", "json"} else ""
    return folder + slash + key, kind


def _clip(shard: str, key: str, sample: dict[str, list[Member]], file: BinaryIO) -> ClipRef | Skip:
    """Return the sample as a clip, or why it is none."""
    videos, captions = sample.get("video", []), sample.get("txt") or sample.get("json", [])
    if not videos:
        return Skip(key, shard, "no video")
    if len(videos) > 1 or len(captions) > 1:
        return Skip(key, shard, "several videos or captions under one key")
    if videos[0].size == 0:
        return Skip(key, shard, "broken video")
    if not captions:
        return Skip(key, shard, "no caption")
    try:
        caption = _caption(captions[0], file)
    except (ValueError, RecursionError):
        return Skip(key, shard, "undecodable caption")
    if not caption:
        return Skip(key, shard, "no caption")
    return ClipRef(shard, key, (videos[0].offset, videos[0].size), caption)


def _caption(member: Member, file: BinaryIO) -> str:
    """Return a caption on one line; empty where a JSON has none.

    Raises:
        ValueError: it is not UTF-8, not JSON or too long. RecursionError: JSON too deep.
    """
    if member.size > MAX_CAPTION:
        raise ValueError(f"{member.size} bytes are more than {MAX_CAPTION}")
    text = os.pread(file.fileno(), member.size, member.offset).decode()
    if member.name.lower().endswith("json"):
        value = json.loads(text)
        text = value.get("caption") if isinstance(value, dict) else None
    caption = " ".join(text.split()) if isinstance(text, str) else ""
    caption.encode()
    return caption
