"""The record of a search: one evaluation a line, written as soon as it is known."""

from __future__ import annotations

import os
from pathlib import Path

from nasvid.architecture import Architecture
from nasvid.errors import UserError
from nasvid.evaluation import Evaluation


def read_record(path: Path) -> list[Evaluation]:
    """Return the evaluations of a file in their order; [] when there is none.

    A last line without its newline was torn by a kill and does not count.

    Raises:
        UserError: a line is damaged, or an architecture is there twice; file and line are named.
    """
    if not path.exists():
        return []
    found: dict[Architecture, Evaluation] = {}
    for number, line in enumerate(path.read_bytes().split(b"\n")[:-1], start=1):
        try:
            evaluation = Evaluation.from_json(line.decode())
            if evaluation.arch in found:
                raise ValueError(f"architecture {evaluation.arch.id} is there twice")
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise UserError(
                f"{path}:{number} is damaged, not an evaluation ({type(error).__name__}: {error}); "
                "repair the line, or delete the file to search anew"
            ) from error
        found[evaluation.arch] = evaluation
    return list(found.values())


def cut_torn_line(path: Path) -> None:
    """Cut off a last line without its newline, so that the next is appended to whole ones."""
    if path.exists():
        with path.open("rb+") as file:
            file.truncate(file.read().rfind(b"\n") + 1)


def append_record(path: Path, evaluation: Evaluation) -> None:
    """Append one line and wait until it is on the disk."""
    with path.open("ab") as file:
        file.write(evaluation.to_json().encode() + b"\n")
        file.flush()
        os.fsync(file.fileno())
