"""Tables of captions as people have them: CSV, TSV, JSON lines or a JSON list, and their text."""

from __future__ import annotations

import codecs
import csv
import io
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from nasvid.data.errors import DataError

DELIMITERS = {".csv": ",;\t", ".tsv": "\t"}
"""What may stand between the fields of a file with such a name."""
JSON = frozenset({".json", ".jsonl"})
TABLES = frozenset({*DELIMITERS, *JSON})
"""Endings of tables that can be read, in lower case."""
MARKS = (
    (codecs.BOM_UTF8, "utf-8-sig"),
    (codecs.BOM_UTF16_LE, "utf-16"),
    (codecs.BOM_UTF16_BE, "utf-16"),
)
"""What a text begins with that says how it is encoded."""


@dataclass(frozen=True, slots=True)
class Row:
    """One line of a table: values by column, in lower case.

    line: where it is in the file, from 1. surplus: it has more fields than there are columns.
    """

    line: int
    values: dict[str, Any]
    surplus: bool = False


def decoded(content: bytes) -> str:
    """Return a text that is UTF-8, or says by its first bytes that it is UTF-16.

    Raises:
        ValueError: it is neither; the message says what was found.
    """
    encoding = next((name for mark, name in MARKS if content.startswith(mark)), "utf-8")
    try:
        text = content.decode(encoding)
    except UnicodeDecodeError as error:
        raise ValueError(
            f"not UTF-8 text (byte {error.object[error.start]:#x} at {error.start}); save it as "
            "UTF-8"
        ) from None
    if "\0" in text:
        raise ValueError("not text: it has NUL characters, as UTF-16 without its mark has")
    return text


def read_table(path: Path) -> list[Row]:
    """Return the rows of a table.

    CSV may have commas, semicolons or tabs between its fields, whichever gives its first line the
    most columns. JSON is a list of objects, or an object a line.

    Raises:
        DataError: the file is no such table, is empty, or a line of it is damaged.
    """
    kind = path.suffix.lower()
    if kind not in TABLES:
        known = ", ".join(sorted(TABLES))
        raise DataError(f"{path} is not a table that can be read ({known}): convert it to one")
    try:
        text = decoded(path.read_bytes())
    except ValueError as error:
        raise DataError(f"{path} is {error}") from None
    rows = list(_json(path, text) if kind in JSON else _csv(path, text, DELIMITERS[kind]))
    if not rows:
        raise DataError(f"{path} has no rows")
    return rows


def _csv(path: Path, text: str, delimiters: str) -> Iterator[Row]:
    first = text.partition("\n")[0]
    delimiter = max(delimiters, key=lambda each: len(_fields(first, each)))
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter, strict=True)
    begins = 1
    try:
        columns = [name.strip().lower() for name in next(reader, [])]
        begins = reader.line_num + 1
        for fields in reader:
            if fields:
                values = dict(zip(columns, fields, strict=False))
                yield Row(begins, values, surplus=len(fields) > len(columns))
            begins = reader.line_num + 1
    except csv.Error as error:
        raise DataError(
            f"{path}:{begins}: a field's quotes do not close as they should ({error}): write "
            'quotes inside of a field twice (""), and put quotes around a field that has a '
            f"{delimiter!r}"
        ) from None


def _fields(line: str, delimiter: str) -> Sequence[str]:
    return next(csv.reader([line], delimiter=delimiter), [])


def _json(path: Path, text: str) -> Iterator[Row]:
    if text.lstrip().startswith("["):
        for number, value in enumerate(_parsed(path, 1, text), 1):
            yield _object(path, number, value)
        return
    for number, line in enumerate(text.splitlines(), 1):
        if line.strip():
            yield _object(path, number, _parsed(path, number, line))


def _parsed(path: Path, line: int, text: str) -> Any:
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as error:
        raise DataError(f"{path}:{line}: not JSON: {error}") from None


def _object(path: Path, line: int, value: Any) -> Row:
    if not isinstance(value, dict):
        raise DataError(f'{path}:{line}: not a JSON object like {{"video": …, "caption": …}}')
    return Row(line, {name.strip().lower(): each for name, each in value.items()})
