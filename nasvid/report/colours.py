"""One colour scale for cost, small to large, used by every figure and table of a report."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import pairwise

from nasvid.report.collect import RunData

STOPS = ("#0f8a72", "#1c7fa3", "#3f6fc6", "#6f56cc", "#9a43b0", "#bd3180")
"""Small to large, evenly spaced; each is visible on white and near-black, and white text on it."""

COSTS = ("macs", "params")
"""The cost that colours and order refer to: the first of these that was evaluated."""


def ramp(fraction: float) -> str:
    """Return the colour at `fraction` (0 small, 1 large) as `#rrggbb`."""
    place = min(max(fraction, 0.0), 1.0) * (len(STOPS) - 1)
    index = min(int(place), len(STOPS) - 2)
    low, high = list(pairwise(STOPS))[index]
    mixed = (
        round(_channel(low, i) + (_channel(high, i) - _channel(low, i)) * (place - index))
        for i in range(3)
    )
    return "#" + "".join(f"{channel:02x}" for channel in mixed)


def cost_metric(run: RunData) -> str | None:
    """Return the metric that colours encode, or None before the search."""
    known = set().union(*(entry.metrics for entry in (*run.evaluations, *run.members)))
    return next((name for name in COSTS if name in known), None)


class CostColours:
    """Colours architectures by where their cost lies between the run's lowest and highest."""

    def __init__(self, run: RunData) -> None:
        self.metric = cost_metric(run) or ""
        entries = (*run.evaluations, *run.members)
        costs = [entry.metrics[self.metric] for entry in entries if self.metric in entry.metrics]
        self.low, self.high = (min(costs), max(costs)) if costs else (0.0, 0.0)

    def __call__(self, metrics: Mapping[str, float]) -> str:
        """Return the colour of an architecture with these metrics."""
        if self.metric not in metrics or self.low == self.high:
            return ramp(0.5)
        return ramp((metrics[self.metric] - self.low) / (self.high - self.low))


def _channel(colour: str, index: int) -> int:
    return int(colour[1 + 2 * index : 3 + 2 * index], 16)
