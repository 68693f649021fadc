"""A run's objectives and constraints, and what the values of its metrics mean."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from nasvid.evaluator import Metric
from nasvid.metrics.cost import COSTS
from nasvid.shapes import Resolution

KNOWN = {
    "macs": "MACs",
    "params": "parameters",
    "latency_ms": "latency",
    "latency_rel": "relative latency",
    "peak_memory": "peak memory",
    "loss": "validation loss",
}
"""Metrics that ship with nasvid -> their readable names."""

ACRONYMS = ("fvd", "kvd")
"""Words of metrics' names that are written in capitals."""

COST_NAMES = ("macs", "params", "latency_ms", "latency_rel", "peak_memory")
"""The metrics that count as costs; quality is plotted against them."""


@dataclass(frozen=True, slots=True)
class Goals:
    """The objectives and constraints of a search.

    objectives, constraints: as in the recipe.
    metrics: name without a resolution -> metric: the search's, then those evaluated after it.
    """

    objectives: tuple[str, ...]
    constraints: tuple[str, ...]
    metrics: Mapping[str, Metric]

    @classmethod
    def of(cls, content: Mapping[str, Any], after: Mapping[str, Any]) -> Goals:
        """Read `search/goals.json`, and the declarations of metrics evaluated after the search."""
        declared = {**after, **content.get("metrics", {})}
        order = [*content.get("metrics", {}), *after]
        costs = {metric.name: metric for metric in COSTS}
        found = {name: Metric(name=name, **declared[name]) for name in dict.fromkeys(order)}
        return cls(
            objectives=tuple(content.get("objectives", ())),
            constraints=tuple(content.get("constraints", ())),
            metrics=costs | found,
        )

    def metric(self, name: str) -> Metric:
        """Return what a metric's values mean."""
        return self.metrics.get(base(name)) or Metric(base(name), "")

    def better(self, name: str) -> str:
        """Return which values of a metric are better, `lower` or `higher`."""
        return "lower" if self.metric(name).goal == "minimise" else "higher"

    def key(self, name: str, resolution: Resolution) -> str:
        """Return the name of a metric in the front at a resolution."""
        metric = self.metric(name)
        return f"{metric.name}@{resolution}" if metric.is_at(resolution) else metric.name

    def at(self, resolution: Resolution) -> tuple[str, ...]:
        """Return the objectives at one resolution."""
        return tuple(dict.fromkeys(self.key(name, resolution) for name in self.objectives))

    @property
    def qualities(self) -> tuple[str, ...]:
        """Metrics that are not costs, without resolutions: objectives first."""
        widths = [name for name, metric in self.metrics.items() if metric.half_width_of]
        names = (*map(base, self.objectives), *self.metrics)
        return tuple(dict.fromkeys(n for n in names if n not in (*COST_NAMES, *widths)))

    def half_width(self, name: str) -> str:
        """Return the metric that is half the 95 % interval of another, or ""."""
        plain, at, resolution = name.partition("@")
        found = (n for n, metric in self.metrics.items() if metric.half_width_of == plain)
        return f"{width}{at}{resolution}" if (width := next(found, "")) else ""

    @property
    def axes(self) -> tuple[str, ...]:
        """What quality is plotted against: costs, those that are objectives first.

        If neither of two objectives is a cost, the second one comes first.
        """
        objectives = tuple(dict.fromkeys(map(base, self.objectives)))
        costs = tuple(name for name in objectives if name in COST_NAMES)
        other = objectives[1:] if len(objectives) == 2 and not costs else ()
        always = ("macs", "params", "latency_ms")
        return tuple(dict.fromkeys((*other, *costs, *always)))

    @property
    def quality(self) -> str | None:
        """The first objective that is not a cost."""
        return next((base(n) for n in self.objectives if base(n) not in COST_NAMES), None)


def base(name: str) -> str:
    """Return a metric's name without its resolution."""
    return name.partition("@")[0]


def label(name: str) -> str:
    """Return a metric's readable name, with its resolution: `validation loss at 32 px`."""
    plain, _, resolution = name.partition("@")
    words = [each.upper() if each in ACRONYMS else each for each in plain.split("_")]
    called = KNOWN.get(plain, " ".join(words))
    return f"{called} at {Resolution.parse(resolution).label}" if resolution else called


def title(goals: Goals, name: str) -> str:
    """Return an axis's title: what it shows, and which end is better unless that is obvious."""
    plain = base(name)
    if plain == "latency_ms":
        return "latency (ms)"
    if plain in COST_NAMES:
        return label(plain)
    return f"{label(plain)} ({goals.better(name)} is better)"


def listed(parts: Iterable[str]) -> str:
    """Join parts as in a sentence: `a, b and c`."""
    *first, last = parts
    return f"{', '.join(first)} and {last}" if first else last
