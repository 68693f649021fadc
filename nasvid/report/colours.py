"""One colour scale for cost, cheap to dear, used by every figure and table of a report."""

from __future__ import annotations

import math
from collections.abc import Mapping
from itertools import pairwise

from nasvid.report.collect import RunData

STOPS = ("#16a085", "#2a93b5", "#4a7bd0", "#7a62d3", "#a74fbb", "#c93d8c")
"""Cheap to dear, evenly apart; each is legible on white and on near-black."""

COSTS = ("macs", "params")
"""What cost means for colours and order: the first of these that was judged."""


def ramp(fraction: float) -> str:
    """Return the colour at `fraction` (0 cheap, 1 dear) as `#rrggbb`."""
    place = min(max(fraction, 0.0), 1.0) * (len(STOPS) - 1)
    index = min(int(place), len(STOPS) - 2)
    low, high = list(pairwise(STOPS))[index]
    mixed = (
        round(_channel(low, i) + (_channel(high, i) - _channel(low, i)) * (place - index))
        for i in range(3)
    )
    return "#" + "".join(f"{channel:02x}" for channel in mixed)


def cost_metric(run: RunData) -> str | None:
    """Return the metric that colours stand for, or None before the search."""
    known = set().union(*(entry.metrics for entry in (*run.judged, *run.members)))
    return next((name for name in COSTS if name in known), None)


class CostColours:
    """Gives architectures their colour: the logarithm of their cost between a run's extremes."""

    def __init__(self, run: RunData) -> None:
        self.metric = cost_metric(run) or ""
        entries = (*run.judged, *run.members)
        costs = [entry.metrics[self.metric] for entry in entries if self.metric in entry.metrics]
        self.low, self.high = (min(costs), max(costs)) if costs else (0.0, 0.0)

    def __call__(self, metrics: Mapping[str, float]) -> str:
        """Return the colour of an architecture with these metrics."""
        cost = metrics.get(self.metric, 0.0)
        if not 0 < self.low < self.high or cost <= 0:
            return ramp(0.5)
        return ramp(math.log(cost / self.low) / math.log(self.high / self.low))


def _channel(colour: str, index: int) -> int:
    return int(colour[1 + 2 * index : 3 + 2 * index], 16)
