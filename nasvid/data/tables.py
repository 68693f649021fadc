"""Reads tables of captions as found in the wild: CSV, TSV, JSON lines or a JSON list."""

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
"""File extension -> the characters that may separate its fields."""
JSON = frozenset({".json", ".jsonl"})
TABLES = frozenset({*DELIMITERS, *JSON})
"""Extensions of tables that can be read, in lower case."""
MARKS = (
    (codecs.BOM_UTF8, "utf-8-sig"),
    (codecs.BOM_UTF16_LE, "utf-16"),
    (codecs.BOM_UTF16_BE, "utf-16"),
)
"""Byte-order marks and their encodings."""


@dataclass(frozen=True, slots=True)
class Row:
    """One row of a table: values by column name, in lower case.

    line: its line in the file, from 1. surplus: whether it has more fields than columns.
    """

    line: int
    values: dict[str, Any]
    surplus: bool = False


def decoded(content: bytes) -> str:
    """Decode a text that is UTF-8, or UTF-16 with a byte-order mark.

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
        raise ValueError(
            "not UTF-8 text: it has NUL characters, like UTF-16 without a byte-order mark; save it "
            "as UTF-8"
        )
    return text


def read_table(path: Path) -> list[Row]:
    """Return the rows of a table.

    CSV may be separated by commas, semicolons or tabs, whichever gives its first line the most
    columns. JSON is a list of objects, or one object per line.

    Raises:
        DataError: the file is not such a table, is empty, or has a damaged line.
    """
    kind = path.suffix.lower()
    if kind not in TABLES:
        known = ", ".join(sorted(TABLES))
        raise DataError(f"{path} is not a supported table; convert it to one of {known}")
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
            f"{path}:{begins}: a quoted field is not closed properly ({error}); double quotes "
            f'inside a field (""), and quote every field that contains {delimiter!r}'
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
