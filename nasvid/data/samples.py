"""The samples of one WebDataset shard: which of them are clips, found without decoding any.

A shard may come from anyone. Only members with the extensions below are read, and nothing is
unpickled or executed; everything else is counted and ignored.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import BinaryIO

from nasvid.data.cache import ShardCache
from nasvid.data.decode import probe
from nasvid.data.errors import ClipError, DataError
from nasvid.data.fetch import FetchError
from nasvid.data.tar import Member, TarDamaged, members

VIDEO_ENDINGS = frozenset({"avi", "mkv", "mov", "mp4", "webm"})
IMAGE_ENDINGS = frozenset({"jpeg", "jpg", "png", "webp"})
MAX_CAPTION = 1 << 16
"""Largest caption or JSON file in bytes; anything longer is not a caption."""
UNREACHABLE = "unreachable shard"
"""The reason for skipping the clips of a shard that cannot be fetched."""

MISSING = "missing shard"
"""The reason for skipping the clips of a local shard that was removed after it was indexed."""


def advice(reason: str) -> str:
    """Return what to do about the reason of a run's stop, if its shards may come back."""
    then = {UNREACHABLE: "once it can be fetched", MISSING: "once it is there"}.get(reason)
    return f"; {then}, the same command resumes the run" if then else ""


@dataclass(frozen=True, slots=True)
class ClipRef:
    """A clip's position and caption.

    shard: path or address of the tar; key: the sample's name in it; video: offset and size of the
    encoded video or image in the tar, in bytes. shape: frames, height and width as displayed; None
    if it was not asked for.
    """

    shard: str
    key: str
    video: tuple[int, int]
    caption: str
    is_image: bool = False
    shape: tuple[int, int, int] | None = None


@dataclass(frozen=True, slots=True)
class Content:
    """A clip as its shard has it: the encoded video or image, and the caption."""

    video: bytes
    caption: str


@dataclass(frozen=True, slots=True)
class Skip:
    """A sample that cannot be used, and why; an empty key means the rest of a shard.

    reason: one of a few short phrases, so that it can be counted. cause: details, if there are any.
    """

    key: str
    shard: str
    reason: str
    cause: str = ""


@dataclass(frozen=True, slots=True)
class ShardContent:
    """The content of one shard.

    shard: path or address. size: bytes. modified: of a local file, in nanoseconds.
    ignored: members that are neither video, image nor caption, or an image beside a video.
    """

    shard: str
    size: int
    modified: int
    clips: tuple[ClipRef, ...]
    skipped: tuple[Skip, ...]
    ignored: int

    @property
    def unreachable(self) -> bool:
        """Whether the shard could not be fetched, so that its content is unknown."""
        return any(skip.reason == UNREACHABLE for skip in self.skipped)


def read_shard(shard: str, path: Path, *, shapes: bool = False) -> ShardContent:
    """Read the headers and captions of the shard at `path`.

    A sample is one video (mp4, webm, mkv, mov, avi) or else image (jpg, png, webp) and its caption
    (txt, or json with "caption"); its key is the member's name up to the first dot. Anything else
    is listed in `skipped`. shapes: also open each clip to find its shape.

    Raises:
        FileNotFoundError: there is no such shard. DataError: the system cannot read it.
    """
    try:
        return _read_shard(shard, path, shapes)
    except FileNotFoundError:
        raise
    except OSError as error:
        raise unreadable(shard, error) from error


def _read_shard(shard: str, path: Path, shapes: bool) -> ShardContent:
    samples: dict[str, dict[str, list[Member]]] = {}
    damage, ignored = "", 0
    with path.open("rb", buffering=0) as file:
        stat = os.fstat(file.fileno())
        try:
            for member in members(file):
                key, kind = key_and_kind(member.name)
                ignored += not kind
                if kind:
                    samples.setdefault(key, {}).setdefault(kind, []).append(member)
        except TarDamaged as error:
            damage = str(error)
        ignored += sum(len(s["image"]) for s in samples.values() if "image" in s and "video" in s)
        found = [_clip(shard, key, sample, file) for key, sample in samples.items()]
        if shapes:
            found = [_shaped(each, file) if isinstance(each, ClipRef) else each for each in found]
    if damage and found and isinstance(found[-1], Skip):
        found[-1] = Skip(found[-1].key, shard, damage)
    elif damage:
        found.append(Skip("", shard, damage))
    return ShardContent(
        shard=shard,
        size=stat.st_size,
        modified=stat.st_mtime_ns,
        clips=tuple(clip for clip in found if isinstance(clip, ClipRef)),
        skipped=tuple(skip for skip in found if isinstance(skip, Skip)),
        ignored=ignored,
    )


def read_video(clip: ClipRef, cache: ShardCache | None = None) -> bytes:
    """Return the encoded video of a clip; a remote shard that is no longer cached is fetched again.

    Raises:
        ClipError: the shard is missing or shorter than when it was indexed.
        DataError: the system cannot read it, which is no fault of the clip.
    """
    offset, size = clip.video
    try:
        path = cache.path(clip.shard) if cache else Path(clip.shard)
        with path.open("rb") as shard:
            shard.seek(offset)
            video = shard.read(size)
    except FetchError as error:
        raise ClipError(UNREACHABLE) from error
    except FileNotFoundError as error:
        raise ClipError(MISSING) from error
    except OSError as error:
        raise unreadable(clip.shard, error) from error
    if len(video) < size:
        raise ClipError("truncated shard")
    return video


def unreadable(shard: str, error: OSError) -> DataError:
    """Return the error of a shard that is there, and cannot be read."""
    return DataError(
        f"{shard} cannot be read: {error.strerror}; run the same command again once it can"
    )


def key_and_kind(name: str) -> tuple[str, str]:
    """Split `dir/key.ending` as WebDataset does, at the first dot of the base name.

    The kind is "video", "image", "txt" or "json", from the last extension; empty for everything
    else.
    """
    folder, slash, base = name.rpartition("/")
    key, _, endings = base.partition(".")
    ending = endings.rpartition(".")[2].lower()
    kinds = {"video": VIDEO_ENDINGS, "image": IMAGE_ENDINGS, "txt": {"txt"}, "json": {"json"}}
    return folder + slash + key, next((kind for kind, of in kinds.items() if ending in of), "")


def _clip(shard: str, key: str, sample: dict[str, list[Member]], file: BinaryIO) -> ClipRef | Skip:
    """Return the sample as a clip, or the reason why it is not one."""
    try:
        video, text = parts_of(sample)
        caption = caption_in(text.name, os.pread(file.fileno(), text.size, text.offset))
    except ClipError as error:
        return Skip(key, shard, error.reason)
    return ClipRef(shard, key, (video.offset, video.size), caption, "video" not in sample)


def parts_of(sample: Mapping[str, Sequence[Member]]) -> tuple[Member, Member]:
    """Return the video or image of a sample, and its caption. sample: kind -> members.

    Raises:
        ClipError: it is no clip.
    """
    is_image = "video" not in sample
    videos = sample.get("image" if is_image else "video", [])
    captions = sample.get("txt") or sample.get("json", [])
    if not videos:
        raise ClipError("no video")
    if len(videos) > 1 or len(captions) > 1:
        raise ClipError("several videos or captions under one key")
    if videos[0].size == 0:
        raise ClipError("broken image" if is_image else "broken video")
    if not captions:
        raise ClipError("no caption")
    if captions[0].size > MAX_CAPTION:
        raise ClipError("undecodable caption")
    return videos[0], captions[0]


def _shaped(clip: ClipRef, file: BinaryIO) -> ClipRef | Skip:
    """Return a clip with its shape, or the reason why it cannot be opened."""
    offset, size = clip.video
    try:
        info = probe(os.pread(file.fileno(), size, offset))
    except ClipError as error:
        return Skip(clip.key, clip.shard, error.reason)
    return replace(clip, shape=(info.frames, info.height, info.width))


def caption_in(name: str, content: bytes) -> str:
    """Return the caption in a text or JSON file, on one line.

    Raises:
        ClipError: it is not UTF-8, not JSON, nested too deeply, or there is none.
    """
    try:
        text = content.decode()
        if name.lower().endswith("json"):
            value = json.loads(text)
            text = value.get("caption") if isinstance(value, dict) else None
        caption = " ".join(text.split()) if isinstance(text, str) else ""
        caption.encode()
    except (ValueError, RecursionError):
        raise ClipError("undecodable caption") from None
    if not caption:
        raise ClipError("no caption")
    return caption
