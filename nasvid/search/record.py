"""The record of a search: one judged architecture a line, written as soon as it is known."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from nasvid.architecture import Architecture
from nasvid.errors import UserError
from nasvid.evaluator import Metrics


@dataclass(frozen=True, slots=True)
class Record:
    """One architecture and what it scored.

    metrics: by name; one that is not finite is nan, in the file null.
    violation: how far the constraints are missed, relative; inf, in the file null, when a metric
        is not finite.
    seconds: wall-clock time of judging it; no two searches agree on it.
    about: what the strategy says of it: the id of its trial, for example.
    """

    arch: Architecture
    metrics: Metrics
    violation: float
    seconds: float
    about: Mapping[str, str] = field(default_factory=dict)

    def to_json(self) -> str:
        """Return the record's line, without the newline."""
        return json.dumps(
            {
                "id": self.arch.id,
                "arch": dict(self.arch),
                "metrics": {name: _or_null(value) for name, value in self.metrics.items()},
                "violation": _or_null(self.violation),
                "seconds": round(self.seconds, 4),
                **({"about": dict(self.about)} if self.about else {}),
            },
            allow_nan=False,
        )

    @classmethod
    def from_json(cls, text: str) -> Record:
        """Read what `to_json` wrote.

        Raises:
            ValueError, KeyError, TypeError, AttributeError: it is something else.
        """
        line: dict[str, Any] = json.loads(text)
        arch = Architecture.from_json(json.dumps(line["arch"]))
        if arch.id != line["id"]:
            raise ValueError(f"id {line['id']} is not that of its architecture, {arch.id}")
        metrics = {
            name: math.nan if value is None else float(value)
            for name, value in line["metrics"].items()
        }
        violation = line["violation"]
        return cls(
            arch=arch,
            metrics=metrics,
            violation=math.inf if violation is None else float(violation),
            seconds=float(line["seconds"]),
            about={name: str(value) for name, value in line.get("about", {}).items()},
        )


def read_record(path: Path) -> list[Record]:
    """Return the records of a file in the order of judging; [] when there is none.

    A last line without its newline was torn by a kill and does not count.

    Raises:
        UserError: a line is damaged, or an architecture is there twice; file and line are named.
    """
    if not path.exists():
        return []
    records: dict[Architecture, Record] = {}
    for number, line in enumerate(path.read_bytes().split(b"\n")[:-1], start=1):
        try:
            record = Record.from_json(line.decode())
            if record.arch in records:
                raise ValueError(f"architecture {record.arch.id} is there twice")
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise UserError(
                f"{path}:{number}: not a line of a search's record "
                f"({type(error).__name__}: {error}); mend it, or delete the file to search anew"
            ) from error
        records[record.arch] = record
    return list(records.values())


def cut_torn_line(path: Path) -> None:
    """Cut off a last line without its newline, so that the next is appended to whole ones."""
    if path.exists():
        with path.open("rb+") as file:
            file.truncate(file.read().rfind(b"\n") + 1)


def append_record(path: Path, record: Record) -> None:
    """Append one line and wait until it is on the disk."""
    with path.open("ab") as file:
        file.write(record.to_json().encode() + b"\n")
        file.flush()
        os.fsync(file.fileno())


def _or_null(value: float) -> float | None:
    return value if math.isfinite(value) else None
