"""The record of a search: one evaluation per line, written as soon as it is made."""

from __future__ import annotations

import os
from pathlib import Path

from nasvid.architecture import Architecture
from nasvid.errors import UserError
from nasvid.evaluation import Evaluation


def read_record(path: Path) -> list[Evaluation]:
    """Return the evaluations in a file, in order; [] if there is none.

    A last line without a newline was left incomplete when the process was killed; it is ignored.

    Raises:
        UserError: a line is damaged, or an architecture is listed twice; the message names the
            line.
    """
    if not path.exists():
        return []
    found: dict[Architecture, Evaluation] = {}
    for number, line in enumerate(path.read_bytes().split(b"\n")[:-1], start=1):
        try:
            evaluation = Evaluation.from_json(line.decode())
            if evaluation.arch in found:
                raise ValueError(f"architecture {evaluation.arch.id} is listed twice")
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise UserError(
                f"{path}:{number} is not a valid evaluation ({type(error).__name__}: {error}); "
                "repair the line, or delete the file to start a new search"
            ) from error
        found[evaluation.arch] = evaluation
    return list(found.values())


def cut_torn_line(path: Path) -> None:
    """Remove an incomplete last line, so that the next one starts on a line of its own."""
    if path.exists():
        with path.open("rb+") as file:
            file.truncate(file.read().rfind(b"\n") + 1)


def append_record(path: Path, evaluation: Evaluation) -> None:
    """Append one line and wait until it is on the disk."""
    with path.open("ab") as file:
        file.write(evaluation.to_json().encode() + b"\n")
        file.flush()
        os.fsync(file.fileno())
