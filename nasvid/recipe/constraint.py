"""Constraints on costs and metrics, written `params <= 900e6`."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass

import numpy as np

from nasvid.errors import UserError

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
            UserError: the text does not have that form.
        """
        match = _TEXT.fullmatch(text)
        if match is None or not math.isfinite(float(match[3])):
            raise UserError(
                f"'{text}' is not a constraint; write one like 'params <= 900e6' or 'loss@64 < 0.2'"
            )
        return cls(match[1], match[2], float(match[3]))

    def violation(self, values: np.ndarray | float) -> np.ndarray:
        """Return how far each value misses the bound, relative to it; 0 where it holds.

        A value that is not a number misses it infinitely.
        """
        values = np.asarray(values, dtype=np.float64)
        excess = values - self.bound if self.relation[0] == "<" else self.bound - values
        holds = (excess < 0) | ((excess == 0) & self.relation.endswith("="))
        missed = np.where(np.isnan(excess), np.inf, excess / max(abs(self.bound), 1e-12))
        return np.where(holds, 0.0, np.maximum(missed, 1e-12))

    def __str__(self) -> str:
        return f"{self.metric} {self.relation} {self.bound:.15g}"
