"""Helpers that all figures of a report use.

Colours of the page are written `var(--name)`; the page's script fills in their values, light or
dark, and the sizes.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, TypeVar

import plotly.graph_objects as go

from nasvid.report.words import tick

POINTS = 600
"""Points kept per curve; more would be invisible and only make the page heavier."""


Value = TypeVar("Value")


@dataclass(frozen=True, slots=True)
class Figure:
    """One figure: a heading, a line below it, and what plotly draws."""

    title: str
    note: str
    plot: Mapping[str, Any]


def thinned(values: Sequence[Value]) -> list[Value]:
    """Return at most `POINTS` of the values, evenly spaced, always with both ends."""
    count = min(len(values), POINTS)
    return [values[i * (len(values) - 1) // max(count - 1, 1)] for i in range(count)]


def short(values: Iterable[float]) -> list[float]:
    """Return values rounded to the digits that are visible."""
    return [float(f"{value:.5g}") for value in values]


def axes(plot: go.Figure, x: str, y: str) -> None:
    """Title the axes and leave the rest to the page."""
    plot.update_layout(template="none", showlegend=False, hovermode="closest")
    plot.update_xaxes(title_text=x)
    plot.update_yaxes(title_text=y)


def scale(plot: go.Figure, axis: Literal["x", "y"], *, wide: float) -> None:
    """Make an axis logarithmic if its values span more than `wide`, with ticks in plain numbers."""
    traces = plot.to_plotly_json()["data"]
    values = [value for trace in traces for value in trace[axis]]
    low, high = min(values), max(values)
    if not 0 < low * wide < high:
        return
    digits = (1,) if high / low > 100 else (1, 2, 5)
    decades = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    ticks = [digit * 10.0**decade for decade in decades for digit in digits]
    shown = {"type": "log", "tickvals": ticks, "ticktext": [tick(value) for value in ticks]}
    plot.update_layout({f"{axis}axis": shown})


def plain(plot: go.Figure) -> Mapping[str, Any]:
    """Return a figure as plain values, without plotly's own theme."""
    content = plot.to_plotly_json()
    content["layout"].pop("template", None)
    return {
        "data": [dict(trace) for trace in content["data"]],
        "layout": content["layout"],
    }
