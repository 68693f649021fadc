"""The files below a folder that can be packed, and those that cannot, with reasons."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

from nasvid.data.errors import DataError
from nasvid.data.samples import IMAGE_ENDINGS, VIDEO_ENDINGS

ALIASES = {"m4v": "mp4", "3gp": "mp4"}
"""Extensions of containers that are MP4 under another name."""
UNSUPPORTED = frozenset({"flv", "gif", "m2ts", "mpeg", "mpg", "mts", "ogv", "ts", "wmv"})
"""Extensions of videos that nasvid cannot read from a shard: counted, but not packed."""
UNSUPPORTED_IMAGES = frozenset({"avif", "bmp", "heic", "heif", "jxl", "tif", "tiff"})
NOT_VIDEOS = frozenset({"@eaDir", "__MACOSX"})
"""Folders that other programs create next to videos; hidden folders are left out too."""


def videos_in(folder: Path) -> tuple[list[Path], list[tuple[str, str]]]:
    """Return the files below a folder to pack, sorted by path, and those left out, with reasons.

    Raises:
        DataError: it is no folder, or holds nothing to pack.
    """
    if not folder.is_dir():
        raise DataError(f"{folder} is not a folder")
    files = sorted(_files(folder), key=lambda path: path.relative_to(folder).parts)
    videos = {f for f in files if ending_of(f) in VIDEO_ENDINGS or ending_of(f) in ALIASES}
    named = {video.with_suffix("") for video in videos}
    others: list[tuple[str, str]] = []
    for file in files:
        ending, name = ending_of(file), file.relative_to(folder).as_posix()
        if ending in UNSUPPORTED:
            others.append((f"unsupported container .{ending}", name))
        elif ending in UNSUPPORTED_IMAGES:
            others.append((f"unsupported image .{ending}", name))
        elif ending in IMAGE_ENDINGS and file.with_suffix("") in named:
            others.append(("picture of a video", name))
        elif ending in IMAGE_ENDINGS:
            videos.add(file)
    if not videos:
        endings = ", ".join(sorted({*VIDEO_ENDINGS, *ALIASES, *IMAGE_ENDINGS}))
        found = f", only {len(others)} of other kinds, such as {others[0][1]}" if others else ""
        raise DataError(f"{folder} holds no videos or images ({endings}){found}")
    return [file for file in files if file in videos], others


def _files(folder: Path) -> Iterator[Path]:
    """Yield the files below a folder, links followed, each folder once."""
    seen: set[str] = set()
    for at, folders, files in os.walk(folder, followlinks=True):
        real = os.path.realpath(at)
        if real in seen:
            folders.clear()
            continue
        seen.add(real)
        folders[:] = sorted(f for f in folders if f[0] != "." and f not in NOT_VIDEOS)
        yield from (Path(at) / name for name in files if name[0] != ".")


def ending_of(path: Path) -> str:
    """Return a file's extension in lower case, without the dot."""
    return path.suffix[1:].lower()
