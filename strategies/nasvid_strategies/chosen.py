"""What was chosen by prediction, in a file: a resumed search need not predict it again."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from nasvid.evaluation import Evaluation
from nasvid.host.files import NotWritten, append_line
from nasvid.host.reading import read_lines
from nasvid.strategy import Problem

FILE = "chosen.jsonl"


class Chosen:
    """Genomes that were chosen earlier, each time from all results that were known then.

    Without the file, or where a line is damaged, they are chosen again, with the same result.
    """

    def __init__(self, problem: Problem, settings: str) -> None:
        """Read what is there. settings: of how genomes are chosen."""
        choices = [(choice.name, choice.options) for choice in problem.space.choices]
        about = (settings, problem.seed, problem.objectives, sorted(problem.maximised))
        about = (*about, sorted(problem.limits.items()), str(problem.shape), choices)
        self._known = hashlib.sha256(repr(about).encode())
        self._sizes = [len(options) for _, options in choices]
        self._path = None if problem.run is None else problem.run.folder / FILE
        self._found: dict[str, np.ndarray] = _read(self._path, self._sizes) if self._path else {}

    def tell(self, results: Sequence[Evaluation]) -> None:
        """Receive results, from which genomes are chosen from now on."""
        for each in results:
            text = f"{each.arch.to_json()} {each.metrics!r} {each.violation!r}\n"
            self._known.update(text.encode())

    def get(self, n: int) -> np.ndarray | None:
        """Return the up to n genomes that were chosen from the present results; None if unknown."""
        return self._found.get(self._key(n))

    def keep(self, n: int, genomes: np.ndarray) -> None:
        """Write down the up to n genomes that are chosen from the present results."""
        if self._path is not None:
            try:
                append_line(self._path, {"key": self._key(n), "genomes": genomes.tolist()})
            except NotWritten:
                self._path = None  # the disk is full: a resumed search chooses again

    def _key(self, n: int) -> str:
        return f"{self._known.hexdigest()[:24]}-{n}"


def _read(path: Path, sizes: Sequence[int]) -> dict[str, np.ndarray]:
    def parse(line: Any) -> tuple[str, np.ndarray]:
        genomes = np.array(line["genomes"], dtype=np.int64).reshape(-1, len(sizes))
        if (genomes < 0).any() or (genomes >= sizes).any():
            raise ValueError("it is of another space")
        return str(line["key"]), genomes

    return dict(read_lines(path, parse)[0])
