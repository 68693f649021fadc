"""Chooses a folder's validation videos: always whole source videos, never parts of one."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from nasvid.data.captions import GIVEN, Captions, names_of
from nasvid.data.errors import DataError
from nasvid.data.paths import SPLITS, Split
from nasvid.data.tables import decoded
from nasvid.host.words import counted

PART = re.compile(r"[-_. ](?:c|clip|cut|part|scene|seg|segment|shot)[-_. ]?\d+$", re.IGNORECASE)
"""The suffix of a clip that was cut from a longer video: `v_TaiChi_g01_c02`,
`holiday-Scene-003`."""
SPLIT_WORDS: Mapping[str, Split] = {
    **dict.fromkeys(("train", "training"), "train"),
    **dict.fromkeys(("val", "valid", "validation", "test", "testing", "dev", "eval"), "val"),
}
"""Values of a table's split column, in lower case."""


HALF = 0.5
"""A share below it never holds out a larger part of the clips."""
_PARTS = (
    "names that differ only in a number after clip, part, scene or the like, such as {}, are taken "
    "for parts of one video: rename them, or list those to hold out in a file (--val FILE)"
)


@dataclass(frozen=True, slots=True)
class Division:
    """A folder's videos divided into splits.

    of: video -> "train" or "val", or "" where they are not divided. refused: what was found but not
    used, as (reason, video or line).
    """

    of: Mapping[Path, str]
    refused: Sequence[tuple[str, str]] = ()

    @property
    def splits(self) -> list[str]:
        """The splits that have videos."""
        return sorted(set(self.of.values())) or [""]


def source_of(name: str) -> str:
    """Return the name of the video that a clip was cut from; for any other video, its own name.

    name: without extension.
    """
    return PART.sub("", name)


def divide(how: str | None, folder: Path, videos: Sequence[Path], captions: Captions) -> Division:
    """Divide the videos below a folder into training and validation.

    how: what to hold out. A share of the source videos (0.05), at least one, chosen by a hash of
    their names: a video that is added moves no other to the other split. Or a file that lists
    videos, as UCF-101's `testlist01.txt` does. Or a column of the captions' table that holds
    `train`, `val` or `test`. None does not divide them.

    Raises:
        DataError: `how` is none of these, or one of the splits would be empty.
    """
    usable = [video for video in videos if captions.of.get(video)]
    if how is not None and not how.strip():
        raise DataError("--val is empty; give a share, a file or a column of the captions' table")
    if how is None:
        return Division(dict.fromkeys(usable, ""))
    share = share_of(how)
    if share is not None:
        division = _by_share(share, folder, usable, others=len(videos) - len(usable))
    elif Path(how).is_file():
        division = _by_list(Path(how), folder, usable)
    else:
        division = _by_column(how, usable, captions)
    for split in SPLITS:
        if split not in division.of.values():
            what = "training" if split == "train" else "validation"
            raise DataError(f"--val {how} leaves no captioned video of {folder} for {what}")
    return division


def share_of(text: str) -> float | None:
    """Return the share that a text of `--val` is; None for a file or a column."""
    try:
        return float(text)
    except ValueError:
        return None


def _by_share(share: float, folder: Path, videos: Sequence[Path], *, others: int) -> Division:
    """Hold out a share of the source videos. others: videos without a caption."""
    if not 0 < share < 1:
        raise DataError(f"--val {share:g}: a share must be between 0 and 1")
    sources: dict[str, list[Path]] = {}
    for video in videos:
        name = video.relative_to(folder).with_suffix("").as_posix()
        sources.setdefault(source_of(name), []).append(video)
    if len(sources) < 2:
        lacking = f"{counted(others, 'other video')} without; {GIVEN}" if others else ""
        named = _PARTS.format(_longest(sources)) if len(videos) > 1 else ""
        raise DataError(
            f"{folder} has {counted(len(sources), 'source video')} with a caption, but a "
            f"validation split needs at least 2; {lacking or named or 'add some'}"
        )
    places = {source: _place(source) for source in sources}
    first, *_, last = sorted(places, key=lambda source: places[source])
    held = {source for source, place in places.items() if place < share} - {last} | {first}
    parts, total = sum(len(sources[source]) for source in held), sum(map(len, sources.values()))
    if share < HALF < parts / total:
        raise DataError(
            f"--val {share:g} would hold out {parts} of {total} clips; "
            + _PARTS.format(_longest({source: sources[source] for source in held}))
        )
    return Division({v: "val" if s in held else "train" for s in sources for v in sources[s]})


def _longest(sources: Mapping[str, Sequence[Path]]) -> str:
    """Return the name of a clip of the source that has most."""
    return max(sources.values(), key=len)[0].name


def _place(name: str) -> float:
    """Return a hash of a name, uniform in [0, 1)."""
    digest = hashlib.sha256(name.encode("utf-8", "surrogateescape")).digest()
    return int.from_bytes(digest[:8]) / 2**64


def _by_list(file: Path, folder: Path, videos: Sequence[Path]) -> Division:
    """Hold out the videos that a file lists, one a line; UCF-101 adds a class's number."""
    try:
        lines = decoded(file.read_bytes()).splitlines()
    except ValueError as error:
        raise DataError(f"{file} is {error}") from None
    known, held, refused = names_of(folder, videos), set[Path](), []
    for number, line in enumerate(lines, 1):
        name = line.strip()
        video = known.get(name) or known.get(re.sub(r"\s+\d+$", "", name))
        if video is not None:
            held.add(video)
        elif name:
            refused.append(("listed, but no captioned video", f"{file.name}:{number}"))
    return Division({v: "val" if v in held else "train" for v in videos}, refused)


def _by_column(column: str, videos: Iterable[Path], captions: Captions) -> Division:
    columns = {name for row in captions.rows.values() for name in row}
    if column.lower() not in columns:
        has = f"only {', '.join(sorted(columns))}" if columns else f"but {captions.layout}"
        raise DataError(
            f"--val {column}: neither a share, nor a file, nor a column of the captions' table "
            f"({has})"
        )
    splits: dict[Path, str] = {}
    refused = []
    for video in videos:
        word = str(captions.rows[video].get(column.lower()) or "").strip().lower()
        if word in SPLIT_WORDS:
            splits[video] = SPLIT_WORDS[word]
        else:
            refused.append((f"{column} neither train nor val", video.name))
    return Division(splits, refused)
