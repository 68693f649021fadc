"""The record of a search: one evaluation per line, written as soon as it is made."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from nasvid.architecture import Architecture
from nasvid.errors import UserError
from nasvid.evaluation import Evaluation
from nasvid.host.files import append
from nasvid.host.reading import MALFORMED, damage

NEW = "delete the file to start a new search"
"""How to mend a search's own record, besides repairing it."""


def read_record(path: Path, fix: str = NEW) -> list[Evaluation]:
    """Return the evaluations in a file, in order; [] if there is none.

    A last line without a newline was left incomplete by a kill and is ignored. Of an architecture
    that is listed twice, the first evaluation counts.

    fix: what to do if it is damaged, for the message.

    Raises:
        UserError: a line is damaged; the message names it.
    """
    found: dict[Architecture, Evaluation] = {}
    for evaluation in evaluations(path, fix):
        found.setdefault(evaluation.arch, evaluation)
    return list(found.values())


def evaluations(path: Path, fix: str = NEW) -> Iterator[Evaluation]:
    """Yield all evaluations in a file, as `read_record`, but one for each line.

    Raises:
        UserError: a line is damaged; the message names it.
    """
    try:
        with damage(path, fix=fix), path.open("rb") as file:
            for number, line in enumerate(file, start=1):
                if line.endswith(b"\n"):
                    yield _evaluation(line, f"{path}:{number}", fix)
    except FileNotFoundError:
        return


def _evaluation(line: bytes, place: str, fix: str) -> Evaluation:
    try:
        return Evaluation.from_json(line.decode())
    except MALFORMED as error:
        raise UserError(
            f"{place} is not a valid evaluation ({type(error).__name__}: {error}); "
            f"repair the line, or {fix}"
        ) from error


def append_record(path: Path, evaluation: Evaluation) -> None:
    """Append one line and wait until it is on the disk."""
    append(path, evaluation.to_json().encode() + b"\n", durable=True)
