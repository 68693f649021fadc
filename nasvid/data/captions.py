"""Which caption belongs to which video file: a table, text files beside the videos, or folders."""

from __future__ import annotations

import csv
import json
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

from nasvid.data.errors import DataError

FILE_COLUMNS = ("videoid", "path", "video", "file")
CAPTION_COLUMNS = ("caption", "text", "name")


@dataclass(frozen=True, slots=True)
class Captions:
    """The captions of a folder of videos.

    layout: where they come from, in words. of: video file -> caption. absent: rows of a table
    whose video is not in the folder.
    """

    layout: str
    of: Mapping[Path, str]
    absent: Sequence[str] = ()


def find_captions(folder: Path, videos: Sequence[Path], table: Path | None) -> Captions:
    """Find the captions of `videos`, which are below `folder`.

    In this order: the table given; text files beside the videos (`clip.txt`); the one table in
    the folder; the names of class folders, as in UCF-101 (`ApplyEyeMakeup` is "apply eye makeup").

    Raises:
        DataError: there are none, several tables, or a table that cannot be read.
    """
    if table is not None:
        return _from_table(folder, videos, table)
    beside = {video: video.with_suffix(".txt") for video in videos}
    if any(text.is_file() for text in beside.values()):
        return Captions(
            "text files beside the videos",
            {video: _text(file) for video, file in beside.items() if file.is_file()},
        )
    tables = sorted(f for f in folder.iterdir() if f.suffix in {".csv", ".jsonl"})
    if len(tables) > 1:
        names = ", ".join(file.name for file in tables)
        raise DataError(f"{folder} holds several tables ({names}); say which with --captions")
    if tables:
        return _from_table(folder, videos, tables[0])
    classes = {video: _words(video.parent.name) for video in videos if video.parent != folder}
    if not classes:
        raise DataError(
            f"{folder} holds no captions: give a CSV or JSONL with --captions, put a .txt beside "
            "each video, or sort the videos into folders named after what they show"
        )
    return Captions("names of class folders", classes)


def _text(file: Path) -> str:
    return " ".join(file.read_text("utf-8", errors="replace").split())


def _words(name: str) -> str:
    """Split CamelCase and snake_case into words."""
    split = r"(?<=[a-z])(?=[A-Z])|(?<=[A-Z])(?=[A-Z][a-z])|[_-]+"
    return re.sub(split, " ", name).lower()


def _from_table(folder: Path, videos: Sequence[Path], table: Path) -> Captions:
    """Match rows to files by path, by path without ending, then by the name alone."""
    rows = list(_rows(table))
    if not rows:
        raise DataError(f"{table} has no rows")
    file_column = _column(table, rows[0], FILE_COLUMNS)
    caption_column = _column(table, rows[0], CAPTION_COLUMNS)
    files = _names(folder, videos)
    captions: dict[Path, str] = {}
    absent = []
    for row in rows:
        name = str(row.get(file_column) or "")
        in_page = f"{row.get('page_dir') or ''}/{name}"
        video = files.get(name) or files.get(in_page)
        if video is None:
            absent.append(name)
        else:
            captions.setdefault(video, " ".join(str(row.get(caption_column) or "").split()))
    return Captions(f"{table.name}, {file_column} and {caption_column}", captions, absent)


def _names(folder: Path, videos: Sequence[Path]) -> dict[str, Path]:
    """Return all that a video may be called: bare names only where they say which."""
    names: dict[str, Path] = {}
    bare: dict[str, list[Path]] = {}
    for video in videos:
        path = PurePosixPath(video.relative_to(folder).as_posix())
        names |= {str(path): video, str(path.with_suffix("")): video}
        for name in (path.name, path.stem):
            bare.setdefault(name, []).append(video)
    return {name: found[0] for name, found in bare.items() if len(found) == 1} | names


def _column(table: Path, row: Mapping[str, Any], known: Sequence[str]) -> str:
    for name in known:
        if name in row:
            return name
    raise DataError(f"{table} has columns {', '.join(row)}; one must be {' or '.join(known)}")


def _rows(table: Path) -> Iterator[dict[str, Any]]:
    try:
        with table.open(encoding="utf-8-sig", newline="") as file:
            yield from csv.DictReader(file) if table.suffix == ".csv" else _objects(table, file)
    except (UnicodeDecodeError, csv.Error) as error:
        raise DataError(f"{table}: not a table in UTF-8: {error}") from error


def _objects(table: Path, lines: Iterable[str]) -> Iterator[dict[str, Any]]:
    for number, line in enumerate(lines, 1):
        try:
            value = json.loads(line)
        except json.JSONDecodeError:
            value = None
        if not isinstance(value, dict):
            raise DataError(f"{table}, line {number}: not a JSON object")
        yield value
