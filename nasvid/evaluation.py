"""Evaluation: one architecture and its metrics."""

from __future__ import annotations

import json
import math
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from nasvid.architecture import Architecture
from nasvid.evaluator import Metrics


@dataclass(frozen=True, slots=True)
class Evaluation:
    """One architecture and its metrics.

    metrics: name -> value; nan (null in JSON) if not finite. Empty if a constraint on cost is
        violated, because nothing is measured then.
    violation: relative violation of the constraints; 0 if all hold; inf (null in JSON) if a metric
        is not finite.
    seconds: wall-clock time of the evaluation; not reproducible.
    about: notes from the search's observer, for example the id of its trial.
    """

    arch: Architecture
    metrics: Metrics
    violation: float
    seconds: float = 0.0
    about: Mapping[str, str] = field(default_factory=dict)

    @property
    def feasible(self) -> bool:
        """Whether every constraint holds."""
        return self.violation <= 0

    def to_json(self) -> str:
        """Return the evaluation as one line, without the newline."""
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
    def from_json(cls, text: str) -> Evaluation:
        """Read what `to_json` wrote.

        Raises:
            ValueError, KeyError, TypeError, AttributeError: `text` is not an evaluation.
        """
        line: dict[str, Any] = json.loads(text)
        arch = Architecture.of(line["arch"])
        if arch.id != line["id"]:
            raise ValueError(f"Id {line['id']} does not match its architecture's, {arch.id}")
        metrics = {
            sys.intern(name): math.nan if value is None else float(value)
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


def _or_null(value: float) -> float | None:
    return value if math.isfinite(value) else None
