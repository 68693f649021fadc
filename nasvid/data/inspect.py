"""Summarises the content of shards, in numbers and pictures."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from nasvid.data.cache import ShardCache
from nasvid.data.decode import VideoInfo, decode, probe
from nasvid.data.errors import ClipError
from nasvid.data.pools import pool
from nasvid.data.samples import ClipRef, read_video
from nasvid.data.shards import ShardIndex
from nasvid.host.files import atomic_path
from nasvid.recipe.sections import DataSection
from nasvid.shapes import Resolution

SHEET_FRAMES, SHEET_SIDE, SHEET_TEXT, SHEET_COLUMNS = 8, 80, 18, 2
"""Of a contact sheet: frames per clip, their height and width, height of a caption, clips per row.
"""
SLOWER = 0.95
"""A clip counts as slower below this fraction of the recipe's frames per second."""


@dataclass(frozen=True, slots=True)
class Spread:
    """Minimum, median and maximum of some numbers."""

    least: float
    median: float
    greatest: float


@dataclass(frozen=True, slots=True)
class Inspection:
    """The content of some shards; `dataclasses.asdict` of it is JSON.

    images: how many of the clips are. skipped: reason -> samples that the index leaves out.
    ignored: members that are no part of a sample. sampled: clips that were opened for the fields
    below. broken: reason -> those of them that do not decode. resolutions: "WIDTHxHEIGHT" -> clips;
    rates: fps -> clips. words: per caption. frequent: the most frequent words -> captions that
    contain them.
    """

    shards: int
    bytes: int
    clips: int
    images: int
    skipped: Mapping[str, int]
    ignored: int
    fingerprint: str
    words: Spread
    frequent: Mapping[str, int]
    examples: tuple[str, ...]
    sampled: int
    broken: Mapping[str, int]
    resolutions: Mapping[str, int]
    rates: Mapping[str, int]
    frames: Spread
    seconds: Spread


def inspect(index: ShardIndex, *, sample: int = 200) -> Inspection:
    """Summarise the content of shards, and open `sample` clips spread over them."""
    chosen = spread_over(index.clips, sample)
    infos, broken = _probe(chosen, index.cache)
    captions = [clip.caption for clip in index.clips]
    vocabulary = Counter(word for caption in captions for word in dict.fromkeys(_words(caption)))
    return Inspection(
        shards=len(index.shards),
        bytes=index.bytes,
        clips=len(index.clips),
        images=sum(clip.is_image for clip in index.clips),
        skipped=index.reasons(),
        ignored=index.ignored,
        fingerprint=index.fingerprint,
        words=_spread(len(_words(caption)) for caption in captions),
        frequent=dict(vocabulary.most_common(20)),
        examples=tuple(clip.caption for clip in spread_over(index.clips, 5)),
        sampled=len(chosen),
        broken=broken,
        resolutions=_count(f"{info.width}x{info.height}" for info in infos),
        rates=_count(f"{info.fps:.4g}" for info in infos),
        frames=_spread(info.frames for info in infos),
        seconds=_spread(info.frames / info.fps for info in infos if info.fps),
    )


@dataclass(frozen=True, slots=True)
class Use:
    """How many of the opened clips a recipe can use at one of its resolutions.

    unusable: reason -> the others. enlarged: usable clips that are smaller.
    slower: usable clips with fewer frames per second than the recipe's.
    """

    resolution: Resolution
    opened: int
    usable: int
    unusable: Mapping[str, int]
    enlarged: int
    slower: int

    def to_json(self) -> dict[str, Any]:
        """Return plain values."""
        return asdict(self) | {"resolution": self.resolution.to_json()}


def uses(
    index: ShardIndex, section: DataSection, resolutions: Iterable[Resolution], *, sample: int = 200
) -> list[Use]:
    """Decode `sample` clips, spread over the shards, as a recipe would at each of its resolutions.

    Only those that the resolution takes. section: of the recipe. resolutions: its resolutions.
    """
    found = []
    for resolution in sorted(resolutions):
        numbers = pool(index, resolution, section.frames)
        chosen = spread_over([index.clips[number] for number in numbers], sample)
        found.append(_use(index, chosen, section, resolution))
    return found


def _use(
    index: ShardIndex, clips: list[ClipRef], section: DataSection, resolution: Resolution
) -> Use:
    reasons: list[str] = []
    enlarged = slower = 0
    for clip in clips:
        try:
            video = read_video(clip, index.cache)
            rate = decode(
                video,
                frames=resolution.frames_or(section.frames),
                fps=section.fps,
                height=resolution.height,
                width=resolution.width,
            ).fps
            info = probe(video)
        except ClipError as error:
            reasons.append(error.reason)
            continue
        enlarged += info.width < resolution.width or info.height < resolution.height
        slower += rate < section.fps * SLOWER
    usable = len(clips) - len(reasons)
    return Use(resolution, len(clips), usable, _count(reasons), enlarged, slower)


def contact_sheet(index: ShardIndex, path: Path, n: int = 24) -> None:
    """Write a PNG of `n` clips spread over the shards: a row of frames under each caption."""
    strips = [_strip(clip, index.cache) for clip in spread_over(index.clips, n)]
    width, height = SHEET_FRAMES * SHEET_SIDE, SHEET_SIDE + SHEET_TEXT
    rows = -(-len(strips) // SHEET_COLUMNS)
    sheet = Image.new("RGB", (SHEET_COLUMNS * width, max(rows, 1) * height))
    for number, strip in enumerate(strips):
        row, column = divmod(number, SHEET_COLUMNS)
        sheet.paste(strip, (column * width, row * height))
    file = BytesIO()
    sheet.save(file, format="PNG")
    with atomic_path(path, needed=file.tell()) as temporary:
        temporary.write_bytes(file.getvalue())


def spread_over(clips: Sequence[ClipRef], n: int) -> list[ClipRef]:
    """Return `n` clips at even distances, or all."""
    places = np.linspace(0, len(clips) - 1, min(n, len(clips)))
    return [clips[round(place)] for place in places]


def _strip(clip: ClipRef, cache: ShardCache | None) -> Image.Image:
    """Draw the frames of two seconds, and the caption with the reason if it cannot be decoded."""
    image = Image.new("RGB", (SHEET_FRAMES * SHEET_SIDE, SHEET_SIDE + SHEET_TEXT))
    text = clip.caption
    try:
        video = read_video(clip, cache)
        frames = 1 if clip.is_image else SHEET_FRAMES
        shown = decode(video, frames=frames, fps=4, height=SHEET_SIDE, width=SHEET_SIDE)
        image.paste(Image.fromarray(np.concatenate(list(shown.frames), axis=1)), (0, SHEET_TEXT))
    except ClipError as error:
        text = f"({error.reason}) {text}"
    font = ImageFont.load_default(size=12)
    ImageDraw.Draw(image).text((3, 2), text, fill="white", font=font)
    return image


def _probe(
    clips: Iterable[ClipRef], cache: ShardCache | None
) -> tuple[list[VideoInfo], dict[str, int]]:
    infos, reasons = [], []
    for clip in clips:
        try:
            infos.append(probe(read_video(clip, cache)))
        except ClipError as error:
            reasons.append(error.reason)
    return infos, _count(reasons)


def _words(caption: str) -> list[str]:
    return re.findall(r"\w+", caption.lower())


def _count(values: Iterable[str]) -> dict[str, int]:
    return dict(Counter(values).most_common())


def _spread(values: Iterable[float]) -> Spread:
    ordered = sorted(values) or [0.0]
    return Spread(ordered[0], float(np.median(ordered)), ordered[-1])
