"""Constraints on costs and metrics, written `params <= 900e6` or `params <= 60%`."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass, replace

import numpy as np

from nasvid.errors import UserError

_TEXT = re.compile(
    r"\s*([A-Za-z_][\w.]*(?:@\d+(?:x\d+){0,2})?)\s*(<=|>=|<|>)\s*([-+]?(?:\d+\.?\d*|\.\d+)(?:[eE][-+]?\d+)?)\s*(%?)\s*"
)


@dataclass(frozen=True, slots=True)
class Constraint:
    """A bound on one metric (`macs`, `loss@64`).

    percent: the bound in percent of a reference, as it was written; None for a plain bound. Until
    `relative_to` has said what the reference is, `bound` is not a number.
    """

    metric: str
    relation: str
    bound: float
    percent: float | None = None

    @classmethod
    def parse(cls, text: str) -> Constraint:
        """Read `METRIC <= NUMBER` or `METRIC <= NUMBER%`, with any of <=, <, >=, >.

        Raises:
            UserError: the text does not have that form.
        """
        match = _TEXT.fullmatch(text)
        if match is None or not math.isfinite(float(match[3])):
            raise UserError(
                f"'{text}' is not a constraint; write one like 'params <= 900e6', "
                "'params <= 60%' or 'loss@64 < 0.2'"
            )
        number = float(match[3])
        if match[4]:
            return cls(match[1], match[2], math.nan, number)
        return cls(match[1], match[2], number)

    def relative_to(self, reference: float | None) -> Constraint:
        """Return the constraint with its bound, where that is in percent of a reference.

        Raises:
            UserError: it is, but there is no reference.
        """
        if self.percent is None:
            return self
        if reference is None:
            raise UserError(
                f"'{self}': {self.metric} has no reference to take a percentage of; write a number"
            )
        return replace(self, bound=self.percent / 100 * reference)

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
        bound = f"{self.bound:.15g}" if self.percent is None else f"{self.percent:.15g}%"
        return f"{self.metric} {self.relation} {bound}"
