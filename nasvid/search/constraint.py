"""Constraints on costs and metrics, written `params <= 900e6`."""

from __future__ import annotations

import re
from dataclasses import dataclass

_TEXT = re.compile(
    r"\s*([A-Za-z_][\w.]*(?:@\d+)?)\s*(<=|>=|<|>)\s*([-+]?(?:\d+\.?\d*|\.\d+)(?:[eE][-+]?\d+)?)\s*"
)


@dataclass(frozen=True, slots=True)
class Constraint:
    """A bound on one metric (`macs`, `loss@64`)."""

    metric: str
    relation: str
    bound: float

    @classmethod
    def parse(cls, text: str) -> Constraint:
        """Read `METRIC <= NUMBER`, with any of <=, <, >=, >.

        Raises:
            ValueError: the text is not of that form.
        """
        match = _TEXT.fullmatch(text)
        if match is None:
            raise ValueError(
                f"'{text}' is not a constraint like 'params <= 900e6' or 'loss@64 < 0.2'"
            )
        return cls(match[1], match[2], float(match[3]))

    def violation(self, value: float) -> float:
        """Return how far `value` misses the bound, relative to it; 0 when it holds."""
        excess = value - self.bound if self.relation[0] == "<" else self.bound - value
        holds = excess < 0 or (excess == 0 and self.relation.endswith("="))
        return 0.0 if holds else max(excess / max(abs(self.bound), 1e-12), 1e-12)

    def __str__(self) -> str:
        return f"{self.metric} {self.relation} {self.bound:.15g}"
