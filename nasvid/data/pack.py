"""A folder of videos into WebDataset shards."""

from __future__ import annotations

import re
import shutil
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any

from webdataset.writer import ShardWriter

from nasvid.data.captions import Captions, find_captions
from nasvid.data.decode import open_video, probe
from nasvid.data.encode import encode
from nasvid.data.errors import ClipError, DataError
from nasvid.data.samples import VIDEO_ENDINGS


@dataclass(frozen=True, slots=True)
class PackReport:
    """What became of a folder.

    layout: where captions were found. bytes: of the shards. skipped: reason -> number of videos
    (or rows of the table) left out. examples: reason -> the first of them.
    """

    layout: str
    shards: int
    clips: int
    bytes: int
    skipped: Mapping[str, int]
    examples: Mapping[str, str]


def pack(
    video_dir: Path,
    out: Path,
    *,
    captions: Path | None = None,
    size: int | None = None,
    shard_size: int = 1000,
) -> PackReport:
    """Write `out/000000.tar` and so on from the videos below `video_dir` and their captions.

    captions: a CSV or JSONL with a video and a caption column; see `find_captions` for what is
    found without it. size: re-encode videos with a longer short side to this many pixels;
    otherwise, and for all others, the encoded bytes are copied. shard_size: clips per shard.

    The same folder gives the same bytes. `out` appears when it is complete.

    Raises:
        DataError: there are no videos or captions, `out` is not empty, or no video was usable.
    """
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise DataError(f"{out} is not an empty folder; remove it or name another")
    if size is not None and (size < 16 or size % 2):
        raise DataError(f"size must be even and at least 16 pixels, not {size}")
    videos = _videos(video_dir)
    found = find_captions(video_dir, videos, captions)
    partial = out.absolute().with_name(f".{out.name}.partial")
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    try:
        skipped = [("no video file", name) for name in found.absent]
        pattern = str(partial).replace("%", "%%") + "/%06d.tar"
        clips = 0
        with ShardWriter(pattern, maxcount=shard_size, verbose=0, mtime=0) as shards:
            for sample in _samples(video_dir, videos, found, size, skipped):
                shards.write(sample)
                clips += 1
        report = _report(partial, found.layout, clips, skipped)
        partial.replace(out)
        return report
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def _report(folder: Path, layout: str, clips: int, skipped: list[tuple[str, str]]) -> PackReport:
    counts = dict(Counter(reason for reason, _ in skipped).most_common())
    if not clips:
        raise DataError(f"no video could be packed ({layout}): {counts}")
    sizes = [shard.stat().st_size for shard in folder.iterdir()]
    return PackReport(
        layout=layout,
        shards=len(sizes),
        clips=clips,
        bytes=sum(sizes),
        skipped=counts,
        examples=dict(reversed(skipped)),
    )


def _videos(folder: Path) -> list[Path]:
    """Return the video files below a folder, sorted by their paths."""
    if not folder.is_dir():
        raise DataError(f"{folder} is not a folder")
    videos = [
        path
        for path in folder.rglob("*")
        if path.suffix[1:].lower() in VIDEO_ENDINGS and path.is_file()
    ]
    if not videos:
        endings = ", ".join(sorted(VIDEO_ENDINGS))
        raise DataError(f"{folder} holds no videos ({endings})")
    return sorted(videos, key=lambda path: path.relative_to(folder).parts)


def _samples(
    folder: Path,
    videos: list[Path],
    captions: Captions,
    size: int | None,
    skipped: list[tuple[str, str]],
) -> Iterator[dict[str, Any]]:
    """Yield the samples of all videos that can be used; the others go to `skipped`."""
    taken: Counter[str] = Counter()
    for path in videos:
        name = path.relative_to(folder).as_posix()
        caption = captions.of.get(path)
        if not caption:
            skipped.append(("no caption", name))
            continue
        try:
            ending, video = _bytes(path, size)
        except ClipError as error:
            skipped.append((error.reason, name))
            continue
        yield {"__key__": _key(name, taken), ending: video, "txt": caption}


def _key(name: str, taken: Counter[str]) -> str:
    """Return a key without dots, at which WebDataset would cut it, that no other video has."""
    key = re.sub(r"[^\w-]+", "_", name.rpartition(".")[0])
    taken[key] += 1
    while taken[key] > 1:
        key = f"{key}-{taken[key]}"
        taken[key] += 1
    return key


def _bytes(path: Path, size: int | None) -> tuple[str, bytes]:
    """Return ending and bytes of a video that opens, re-encoded if it is larger than wanted."""
    video = path.read_bytes()
    info = probe(video)
    short = min(info.width, info.height)
    if size is None or short <= size:
        return path.suffix[1:].lower(), video
    width, height = (2 * round(side * size / short / 2) for side in (info.width, info.height))
    with open_video(video) as (container, stream):
        pictures = (
            picture.reformat(width, height, "yuv420p", interpolation="AREA")
            for picture in container.decode(stream)
        )
        rate = Fraction(stream.average_rate or info.fps)
        return "mp4", encode(pictures, width, height, rate)
