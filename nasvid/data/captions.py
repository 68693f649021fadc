"""Finds each video's caption: in a table, text files next to the videos, or folder names."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Any

from nasvid.data.errors import DataError
from nasvid.data.samples import MAX_CAPTION
from nasvid.data.tables import TABLES, Row, decoded, read_table

FILE_COLUMNS = (
    "videoid",
    "video_id",
    "video",
    "video_path",
    "path",
    "file",
    "filename",
    "file_name",
)
CAPTION_COLUMNS = ("caption", "text", "prompt", "description", "name")
"""Column names, in lower case; the first one found in a table is used. `name` comes last: in
WebVid's tables it is the caption, but next to a `prompt` it is the file's name."""


@dataclass(frozen=True, slots=True)
class Captions:
    """The captions of a folder of videos.

    layout: where they come from, in words. of: video file -> caption. refused: what was found but
    not used, as (reason, file or row). rows: video file -> the values of its row, by column; {}
    without a table.
    """

    layout: str
    of: Mapping[Path, str]
    refused: Sequence[tuple[str, str]] = ()
    rows: Mapping[Path, Mapping[str, Any]] = field(default_factory=dict)


GIVEN = (
    "name a CSV or JSONL with --captions, put a .txt next to each video, or sort the videos into "
    "folders named after what they show"
)
"""How captions are given."""


class _Unusable(ValueError):
    """A caption cannot be used; the message is the reason that it is counted under."""


def find_captions(folder: Path, videos: Sequence[Path], table: Path | None) -> Captions:
    """Find the captions of `videos`, which lie below `folder`.

    Tried in this order: the given table; text files next to the videos (`clip.txt`); the only table
    in the folder; names of class folders, as in UCF-101 (`ApplyEyeMakeup` is "apply eye makeup").

    Raises:
        DataError: there are none, several tables, or a table that cannot be read.
    """
    if table is not None:
        return _from_table(folder, videos, table)
    beside = {video: video.with_suffix(".txt") for video in videos}
    if any(text.is_file() for text in beside.values()):
        return _from_texts(folder, {v: text for v, text in beside.items() if text.is_file()})
    tables = sorted(f for f in folder.iterdir() if f.suffix.lower() in TABLES and f.is_file())
    if len(tables) > 1:
        names = ", ".join(file.name for file in tables)
        raise DataError(f"{folder} holds several tables ({names}); choose one with --captions")
    if tables:
        return _from_table(folder, videos, tables[0])
    classes = {video: _words(video.parent.name) for video in videos if video.parent != folder}
    if not classes:
        raise DataError(f"{folder} holds no captions; {GIVEN}")
    return Captions("names of class folders", classes)


def _from_texts(folder: Path, texts: Mapping[Path, Path]) -> Captions:
    captions, refused = {}, []
    for video, file in texts.items():
        try:
            captions[video] = _caption(_decoded(file))
        except _Unusable as error:
            refused.append((str(error), file.relative_to(folder).as_posix()))
    return Captions("text files next to the videos", captions, refused)


def _decoded(file: Path) -> str:
    try:
        return decoded(file.read_bytes())
    except ValueError:
        raise _Unusable("caption not UTF-8") from None


def _caption(value: Any) -> str:
    """Return a caption on one line; "" if there is none."""
    if value is None:
        return ""
    if not isinstance(value, str):
        raise _Unusable("caption not text")
    caption = " ".join(value.split())
    try:
        size = len(caption.encode())
    except UnicodeEncodeError:  # a lone surrogate, which JSON may contain
        raise _Unusable("caption not text") from None
    if size > MAX_CAPTION:
        raise _Unusable("caption too long")
    return caption


def _words(name: str) -> str:
    """Split CamelCase and snake_case into words."""
    split = r"(?<=[a-z])(?=[A-Z])|(?<=[A-Z])(?=[A-Z][a-z])|[_-]+"
    return re.sub(split, " ", name).lower()


def _from_table(folder: Path, videos: Sequence[Path], table: Path) -> Captions:
    """Match rows to files by path, by path without extension, then by name only."""
    rows = read_table(table)
    caption_column = _column(table, rows[0], CAPTION_COLUMNS)
    file_columns = FILE_COLUMNS if caption_column == "name" else (*FILE_COLUMNS, "name")
    file_column = _column(table, rows[0], file_columns)
    files = names_of(folder, videos)
    captions: dict[Path, str] = {}
    values: dict[Path, Mapping[str, Any]] = {}
    refused = []
    for row in rows:
        try:
            video, caption = _matched(row, file_column, caption_column, files)
            if video in captions:
                raise _Unusable("second caption")
            captions[video], values[video] = caption, row.values
        except _Unusable as error:
            refused.append((str(error), f"{table.name}:{row.line}"))
        except KeyError as error:
            refused.append(("no video file", str(error.args[0])))
    layout = f"{table.name}, {file_column} and {caption_column}"
    return Captions(layout, captions, refused, values)


def _matched(
    row: Row, file_column: str, caption_column: str, files: Mapping[str, Path]
) -> tuple[Path, str]:
    """Return a row's video and caption.

    Raises:
        _Unusable: its caption cannot be used. KeyError: no video has that name.
    """
    if row.surplus:
        raise _Unusable("more fields than columns")
    name = str(row.values.get(file_column) or "")
    in_page = f"{row.values.get('page_dir') or ''}/{name}"
    video = files.get(name) or files.get(in_page)
    if video is None:
        raise KeyError(name)
    return video, _caption(row.values.get(caption_column))


def names_of(folder: Path, videos: Sequence[Path]) -> dict[str, Path]:
    """Return all names of each video; bare names only if they are unique."""
    names: dict[str, Path] = {}
    bare: dict[str, list[Path]] = {}
    for video in videos:
        path = PurePosixPath(video.relative_to(folder).as_posix())
        names |= {str(path): video, str(path.with_suffix("")): video}
        for name in (path.name, path.stem):
            bare.setdefault(name, []).append(video)
    return {name: found[0] for name, found in bare.items() if len(found) == 1} | names


def _column(table: Path, row: Row, known: Sequence[str]) -> str:
    for name in known:
        if name in row.values:
            return name
    raise DataError(
        f"{table} has the columns {', '.join(row.values)}; name one of them {' or '.join(known)}"
    )
