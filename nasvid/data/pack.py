"""Packs a folder of videos and images into WebDataset shards."""

from __future__ import annotations

import os
import re
import shutil
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any

from av.video.reformatter import VideoReformatter
from webdataset.writer import ShardWriter

from nasvid.data.captions import Captions, find_captions
from nasvid.data.counts import file_count
from nasvid.data.decode import open_video, probe, upright
from nasvid.data.encode import Timed, encode_timed
from nasvid.data.errors import ClipError, DataError
from nasvid.data.image import is_image, resized
from nasvid.data.samples import IMAGE_ENDINGS, VIDEO_ENDINGS
from nasvid.data.split import divide, share_of
from nasvid.data.wids import write_index
from nasvid.host.files import sync_all, writing

ALIASES = {"m4v": "mp4", "3gp": "mp4"}
"""Extensions of containers that are MP4 under another name."""
UNSUPPORTED = frozenset({"flv", "gif", "m2ts", "mpeg", "mpg", "mts", "ogv", "ts", "wmv"})
"""Extensions of videos that nasvid cannot read from a shard: counted, but not packed."""
UNSUPPORTED_IMAGES = frozenset({"avif", "bmp", "heic", "heif", "jxl", "tif", "tiff"})
NOT_VIDEOS = frozenset({"@eaDir", "__MACOSX"})
"""Folders that other programs create next to videos; hidden folders are left out too."""
SHOWN = 3
"""Number of videos whose captions are shown when a folder is packed."""


@dataclass(frozen=True, slots=True)
class PackReport:
    """The result of packing a folder.

    layout: where captions were found. bytes: of the shards. skipped: reason -> number of videos
    (or rows of the table) left out. examples: reason -> the first of them. captions: the first
    packed videos -> their captions as read. splits: split -> clips; {} if there is only one.
    """

    layout: str
    shards: int
    clips: int
    bytes: int
    skipped: Mapping[str, int]
    examples: Mapping[str, str]
    captions: Mapping[str, str]
    splits: Mapping[str, int]


def pack(
    video_dir: Path,
    out: Path,
    *,
    captions: Path | None = None,
    val: str | None = None,
    size: int | None = None,
    shard_size: int = 1000,
) -> PackReport:
    """Write `out/000000.tar` and so on from the videos below `video_dir` and their captions.

    Images are videos of one frame; one that has the name of a video beside it is left out.
    captions: a CSV, TSV, JSON or JSONL with a video and a caption column; see `find_captions` for
    what happens without it. val: what to hold out, see `divide`; the shards then are in `out/train`
    and `out/val`. size: re-encode what has a short side of more pixels, upright, with square
    pixels, each frame at its own time; all others are copied byte for byte.
    shard_size: clips per shard.

    The same folder gives the same bytes. Shards appear in `out` once all are complete.

    Raises:
        DataError: there are no videos or captions, `out` is not empty, or no video is usable.
        NotWritten: the disk is full; nothing is left of the shards.
    """
    if out.exists() and (not out.is_dir() or any(_content(out))):
        raise DataError(f"{out} is not an empty folder; remove it or choose another")
    if size is not None and (size < 16 or size % 2):
        raise DataError(f"--size {size}: must be even and at least 16 pixels")
    videos, others = _videos(video_dir)
    found = find_captions(video_dir, videos, captions)
    division = divide(val, video_dir, videos, found)
    videos = [v for v in videos if v in division.of or not found.of.get(v)]
    skipped = [*found.refused, *division.refused, *others]
    shown: dict[str, str] = {}
    needed = 0 if size else sum(video.stat().st_size for video in videos if video.exists())
    with writing(out, needed), _folder_in_the_making(out) as partial:
        clips: Counter[str] = Counter()
        with _writers(partial, division.splits, shard_size) as shards:
            for path, sample in _samples(video_dir, videos, found, size, skipped):
                split = division.of[path]
                shards[split].write(sample)
                clips[split] += 1
                if len(shown) < SHOWN:
                    shown[path.relative_to(video_dir).as_posix()] = sample["txt"]
        shared = val is not None and share_of(val) is not None
        _check_complete(clips, division.splits, found.layout, skipped, shared=shared)
        _write_indexes(partial, division.splits)
        return _report(partial, found.layout, clips, skipped, shown)


@contextmanager
def _writers(
    folder: Path, splits: Iterable[str], shard_size: int
) -> Iterator[Mapping[str, ShardWriter]]:
    """Yield the writers of each split's shards, each in its own folder."""
    with ExitStack() as shards:
        writers = {}
        for split in splits:
            (folder / split).mkdir(exist_ok=True)
            pattern = str(folder / split).replace("%", "%%") + "/%06d.tar"
            writer = ShardWriter(pattern, maxcount=shard_size, verbose=0, mtime=0)
            writers[split] = shards.enter_context(writer)
        yield writers


def _write_indexes(folder: Path, splits: Iterable[str]) -> None:
    """Write the index of each split's shards beside them."""
    for split in splits:
        shards = sorted((folder / split).glob("*.tar"))
        samples = {shard.name: file_count(shard).samples for shard in shards}
        write_index(folder / split, samples, checksums=True)


def _check_complete(
    clips: Mapping[str, int],
    splits: Iterable[str],
    layout: str,
    skipped: Sequence[tuple[str, str]],
    *,
    shared: bool,
) -> None:
    """Check that each split has a clip.

    shared: whether a share of the videos is held out.

    Raises:
        DataError: one has none.
    """
    for split in splits:
        if not clips.get(split):
            of = f" of the {split} split" if split else ""
            why = ", ".join(f"{n} with {reason}" for reason, n in _counts(skipped).items())
            other = "smaller" if split == "train" else "larger"
            fix = f"; try a {other} share with --val" if shared and split else ""
            raise DataError(
                f"No video{of} could be packed (captions: {layout}); skipped: {why}{fix}"
            )


@contextmanager
def _folder_in_the_making(out: Path) -> Iterator[Path]:
    """Yield a folder that only this process uses; on success its content moves to `out`.

    It lies inside `out` if that exists, because a mount point, a link or the current folder cannot
    be replaced. Leftovers of killed processes are removed.

    Raises:
        DataError: another process has filled `out` in the meantime.
    """
    parent = out if out.exists() else out.absolute().parent
    name = f".{out.resolve().name}.partial"
    for left in parent.glob(f"{name}.*"):
        if not _runs(left.suffix[1:]):
            shutil.rmtree(left, ignore_errors=True)
    partial = parent / f"{name}.{os.getpid()}"
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    try:
        yield partial
        sync_all(partial)
        if parent != out:
            out.mkdir(exist_ok=True)
        if any(_content(out)):
            raise DataError(f"{out} was filled by another process; choose another folder")
        for shard in sorted(partial.iterdir()):
            shard.replace(out / shard.name)
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def _content(folder: Path) -> Iterator[Path]:
    """Yield a folder's content except unfinished packs and the file system's own entries."""
    for path in folder.iterdir():
        if path.name != "lost+found" and not re.fullmatch(r"\..+\.partial\.\d+", path.name):
            yield path


def _runs(pid: str) -> bool:
    try:
        os.kill(int(pid), 0)
    except (ValueError, ProcessLookupError):
        return False
    except PermissionError:
        return True
    return True


def _report(
    folder: Path,
    layout: str,
    clips: Mapping[str, int],
    skipped: Sequence[tuple[str, str]],
    shown: Mapping[str, str],
) -> PackReport:
    sizes = [shard.stat().st_size for shard in folder.rglob("*.tar")]
    return PackReport(
        layout=layout,
        shards=len(sizes),
        clips=sum(clips.values()),
        bytes=sum(sizes),
        skipped=_counts(skipped),
        examples=dict(reversed(skipped)),
        captions=shown,
        splits={split: number for split, number in clips.items() if split},
    )


def _counts(skipped: Iterable[tuple[str, str]]) -> dict[str, int]:
    return dict(Counter(reason for reason, _ in skipped).most_common())


def _videos(folder: Path) -> tuple[list[Path], list[tuple[str, str]]]:
    """Return the files below a folder to pack, sorted by path, and those left out, with reasons."""
    if not folder.is_dir():
        raise DataError(f"{folder} is not a folder")
    files = sorted(_files(folder), key=lambda path: path.relative_to(folder).parts)
    videos = {f for f in files if _ending(f) in VIDEO_ENDINGS or _ending(f) in ALIASES}
    named = {video.with_suffix("") for video in videos}
    others: list[tuple[str, str]] = []
    for file in files:
        ending, name = _ending(file), file.relative_to(folder).as_posix()
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


def _ending(path: Path) -> str:
    return path.suffix[1:].lower()


def _samples(
    folder: Path,
    videos: list[Path],
    captions: Captions,
    size: int | None,
    skipped: list[tuple[str, str]],
) -> Iterator[tuple[Path, dict[str, Any]]]:
    """Yield path and sample of each usable video; the others are added to `skipped`."""
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
        yield path, {"__key__": _key(name, taken), ending: video, "txt": caption}


def _key(name: str, taken: Counter[str]) -> str:
    """Return a unique key without dots, at which WebDataset would split it."""
    key = re.sub(r"[^\w-]+", "_", name.rpartition(".")[0])
    taken[key] += 1
    while taken[key] > 1:
        key = f"{key}-{taken[key]}"
        taken[key] += 1
    return key


def _bytes(path: Path, size: int | None) -> tuple[str, bytes]:
    """Return extension and bytes of a video that opens, re-encoded if it is too large."""
    video = path.read_bytes()
    info = probe(video)
    short = min(info.width, info.height)
    if size is None or short <= size:
        return ALIASES.get(_ending(path), _ending(path)), video
    width, height = (2 * round(side * size / short / 2) for side in (info.width, info.height))
    if is_image(video):
        return _ending(path), resized(video, width, height)
    return "mp4", encode_timed(_smaller(video, width, height))


def _smaller(video: bytes, width: int, height: int) -> Iterator[Timed]:
    """Yield a video's pictures, upright and scaled to a size, each with its time."""
    with open_video(video) as (container, stream):
        rate = Fraction(stream.average_rate or 25)
        resize = VideoReformatter()
        for number, picture in enumerate(container.decode(stream)):
            if picture.pts is None or picture.time_base is None or container.format.name == "avi":
                pts, unit = number, 1 / rate
            else:
                pts, unit = picture.pts, picture.time_base
            yield upright(picture, width, height, resize), pts, unit
