"""Packs a folder of videos and images into WebDataset shards."""

from __future__ import annotations

import hashlib
import json
import re
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import closing, nullcontext
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import av
from torch.utils.data import Dataset

from nasvid.data.captions import Captions, find_captions
from nasvid.data.errors import ClipError, DataError
from nasvid.data.listing import videos_in
from nasvid.data.packing import Packed, Packing, content, is_begun, not_empty, packing
from nasvid.data.recode import packed_bytes
from nasvid.data.split import Division, divide, share_of
from nasvid.data.workers import run_workers
from nasvid.errors import UserError
from nasvid.host.display import Display
from nasvid.host.machine import usable_cores

FORMAT = 1
"""Changes whenever the same videos would give other shards."""
SHOWN = 3
"""Number of videos whose captions are shown when a folder is packed."""
Told = Callable[[], None]
"""Is called when a clip is packed."""


@dataclass(frozen=True, slots=True)
class PackReport:
    """The result of packing a folder.

    layout: where captions were found. bytes: of the shards. skipped: reason -> number of videos
    (or rows of the table) left out. examples: reason -> the first of them. captions: the first
    packed videos -> their captions as read. splits: split -> clips; {} if there is only one.
    resumed: how many of the clips were packed before, by a process that did not finish.
    """

    layout: str
    shards: int
    clips: int
    bytes: int
    skipped: Mapping[str, int]
    examples: Mapping[str, str]
    captions: Mapping[str, str]
    splits: Mapping[str, int]
    resumed: int


@dataclass(frozen=True, slots=True)
class Item:
    """A clip to pack: its file, that file's name below the folder, its key and caption."""

    path: Path
    name: str
    key: str
    caption: str


def pack(
    video_dir: Path,
    out: Path,
    *,
    captions: Path | None = None,
    val: str | None = None,
    size: int | None = None,
    shard_size: int = 1000,
    workers: int | None = None,
    display: Display | None = None,
) -> PackReport:
    """Write `out/000000.tar` and so on from the videos below `video_dir` and their captions.

    Images are videos of one frame; one that has the name of a video beside it is left out.
    captions: a CSV, TSV, JSON or JSONL with a video and a caption column; see `find_captions` for
    what happens without it. val: what to hold out, see `divide`; the shards then are in `out/train`
    and `out/val`. size: re-encode what has a short side of more pixels, upright, with square
    pixels, each frame at its own time; all others are copied byte for byte.
    shard_size: clips per shard. workers: processes that read and encode; by default one for each
    core that this process may use. display: shows the progress.

    The same folder gives the same bytes, whatever the number of workers and however often the pack
    was killed and started again. Shards appear in `out` once all are complete.

    Raises:
        DataError: there are no videos or captions, `out` is not empty, no video is usable, or one
            cannot be read.
        UserError: another process packs into `out`.
        NotWritten: the disk is full.
    """
    if not is_begun(out) and (any(content(out)) or (out.exists() and not out.is_dir())):
        raise not_empty(out)
    if size is not None and (size < 16 or size % 2):
        raise DataError(f"--size {size}: must be even and at least 16 pixels")
    videos, others = videos_in(video_dir)
    found = find_captions(video_dir, videos, captions)
    division = divide(val, video_dir, videos, found)
    items = _items(video_dir, videos, found, division)
    bare = [video.relative_to(video_dir).as_posix() for video in videos if not found.of.get(video)]
    skipped = [
        *found.refused,
        *division.refused,
        *others,
        *(("no caption", name) for name in bare),
    ]
    needed = 0 if size else sum(_stamp(each.path)[0] for some in items.values() for each in some)
    job = _Job(items, size, shard_size)
    with packing(out, job.made_from(), needed) as made:
        before = sum(shard.samples for split in items for shard in made.shards(split))
        job.pack(made, workers or usable_cores(), display)
        shards = [shard for split in items for shard in made.shards(split)]
        skipped += [each for shard in shards for each in shard.skipped]
        shared = val is not None and share_of(val) is not None
        try:
            _check_complete(shards, items, found.layout, skipped, shared=shared)
        except DataError:
            made.discard()
            raise
        made.finish(items)
        made.discard()
    return _report(found.layout, shards, items, skipped, before)


@dataclass(frozen=True, slots=True)
class _Job:
    """What is packed, and how. items: split -> its clips in order. size: as `pack`."""

    items: Mapping[str, Sequence[Item]]
    size: int | None
    shard_size: int

    def made_from(self) -> str:
        """Return a hash of all that the shards depend on; of videos their sizes and times."""
        encoder = (self.size, av.__version__) if self.size else ()
        digest = hashlib.sha256(json.dumps([FORMAT, self.shard_size, *encoder]).encode())
        for split, items in self.items.items():
            for item in items:
                line = [split, item.name, item.key, item.caption, *_stamp(item.path)]
                digest.update(json.dumps(line).encode())
        return digest.hexdigest()

    def pack(self, made: Packing, workers: int, display: Display | None) -> None:
        """Write the shards that are missing."""
        total = sum(map(len, self.items.values()))
        done = sum(shards[-1].after for split in self.items if (shards := made.shards(split)))
        shown = display.track("pack", total, "clips", done) if display else nullcontext()
        with shown as tracker:
            for split in self.items:
                self._pack(made, split, workers, tracker.advance if tracker else lambda: None)

    def _pack(self, made: Packing, split: str, workers: int, progress: Told) -> None:
        """Write the shards of a split that are missing."""
        items, shards = self.items[split], made.shards(split)
        number, first = len(shards), shards[-1].after if shards else 0
        rest = range(first, len(items))
        if made.complete or not rest:
            return
        processes = workers if min(workers, len(rest)) > 1 else 0
        samples = run_workers(_Samples(items, self.size), rest, processes, setting="--workers")
        with closing(samples):
            coming = self._coming(split, rest, samples, progress)
            while first < len(items):
                first = made.write(split, number, coming, self.shard_size).after
                number += 1

    def _coming(
        self, split: str, numbers: Iterable[int], samples: Iterable[Any], progress: Told
    ) -> Iterator[tuple[int, str, Any]]:
        for number, sample in zip(numbers, samples, strict=True):
            yield number, self.items[split][number].name, sample
            progress()


@dataclass(frozen=True, slots=True)
class _Samples(Dataset[Any]):
    """Maps the number of a clip to its sample, or to the reason why it has none."""

    items: Sequence[Item]
    size: int | None

    def __getitem__(self, number: int) -> dict[str, Any] | str | UserError:
        item = self.items[number]
        try:
            ending, video = packed_bytes(item.path, self.size)
        except ClipError as error:
            return error.reason
        except FileNotFoundError:
            return "missing file"
        except OSError as error:
            return DataError(f"{item.path} cannot be read: {error.strerror}; resume once it can")
        return {"__key__": item.key, ending: video, "txt": item.caption}


def _items(
    folder: Path, videos: Iterable[Path], captions: Captions, division: Division
) -> dict[str, list[Item]]:
    """Return the clips of each split, in the order of their paths."""
    items: dict[str, list[Item]] = {split: [] for split in division.splits}
    taken: Counter[str] = Counter()
    for path in videos:
        if path in division.of:
            name = path.relative_to(folder).as_posix()
            item = Item(path, name, _key(name, taken), captions.of[path])
            items[division.of[path]].append(item)
    return items


def _key(name: str, taken: Counter[str]) -> str:
    """Return a unique key without dots, at which WebDataset would split it."""
    key = re.sub(r"[^\w-]+", "_", name.rpartition(".")[0])
    taken[key] += 1
    while taken[key] > 1:
        key = f"{key}-{taken[key]}"
        taken[key] += 1
    return key


def _stamp(path: Path) -> tuple[int, int]:
    """Return size and time of a file; zeros of one that is missing."""
    try:
        stat = path.stat()
    except FileNotFoundError:
        return 0, 0
    return stat.st_size, stat.st_mtime_ns


def _check_complete(
    shards: Iterable[Packed],
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
    clips = _clips(shards)
    for split in splits:
        if not clips[split]:
            of = f" of the {split} split" if split else ""
            why = ", ".join(f"{n} with {reason}" for reason, n in _counts(skipped).items())
            other = "smaller" if split == "train" else "larger"
            fix = f"; try a {other} share with --val" if shared and split else ""
            raise DataError(
                f"No video{of} could be packed (captions: {layout}); skipped: {why}{fix}"
            )


def _clips(shards: Iterable[Packed]) -> Counter[str]:
    """Return how many clips each split has."""
    clips: Counter[str] = Counter()
    for shard in shards:
        clips[shard.split] += shard.samples
    return clips


def _report(
    layout: str,
    shards: Sequence[Packed],
    items: Mapping[str, Sequence[Item]],
    skipped: Sequence[tuple[str, str]],
    before: int,
) -> PackReport:
    left_out, clips = {name for _, name in skipped}, _clips(shards)
    first = (each for some in items.values() for each in some if each.name not in left_out)
    written = [shard for shard in shards if shard.samples]
    return PackReport(
        layout=layout,
        shards=len(written),
        clips=clips.total(),
        bytes=sum(shard.bytes for shard in written),
        skipped=_counts(skipped),
        examples=dict(reversed(skipped)),
        captions={each.name: each.caption for each in islice(first, SHOWN)},
        splits={split: number for split, number in clips.items() if split},
        resumed=before,
    )


def _counts(skipped: Iterable[tuple[str, str]]) -> dict[str, int]:
    return dict(Counter(reason for reason, _ in skipped).most_common())
