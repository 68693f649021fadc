"""The figures of a report, as plotly figures in plain values.

Colours of the page are written `var(--name)`; the page's script puts in what they are, light or
dark, and the sizes.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import plotly.graph_objects as go

from nasvid.report.collect import Judged, Member, RunData
from nasvid.report.colours import CostColours, ramp
from nasvid.report.words import LABELS, metric_value, tick
from nasvid.search.pareto import hypervolume

POINTS = 600
"""Points kept of a curve; more are not seen and only make the page heavy."""

WIDE = 40
"""Dearest to cheapest beyond which a cost axis is logarithmic."""

SMOOTHING = 0.04
"""A smoothed curve's time constant, as a part of the whole."""

ROLES = {"largest": 1.0, "random": 0.5, "smallest": 0.0}
"""Role of a subnet in a training step -> its place on the cost scale."""


@dataclass(frozen=True, slots=True)
class Figure:
    """One figure: a heading, a line below it, and what plotly draws."""

    title: str
    note: str
    plot: Mapping[str, Any]


def fronts(run: RunData, metric: str) -> list[Figure]:
    """Return loss against a cost metric, one figure per resolution that has both, ascending."""
    colours = CostColours(run)
    found = []
    for side in run.resolutions:
        figure = _front(run, metric, side, colours)
        if figure is not None:
            found.append(figure)
    return found


def _front(run: RunData, metric: str, side: int, colours: CostColours) -> Figure | None:
    x, y = metric if metric == "params" else f"{metric}@{side}", f"loss@{side}"
    judged = [entry for entry in run.judged if x in entry.metrics and y in entry.metrics]
    members = [member for member in run.members if x in member.metrics and y in member.metrics]
    if not judged and not members:
        return None
    front = sorted(
        (entry for entry in judged if entry.id in run.fronts.get(side, ())),
        key=lambda entry: entry.metrics[x],
    )
    style = {"color": "var(--ink-3)", "width": 1.5, "shape": "hv"}
    plot = go.Figure(
        [
            _dots(_thinned(judged), x, y, colours, size=6, opacity=0.35),
            go.Scatter(
                x=_short(entry.metrics[x] for entry in front),
                y=_short(entry.metrics[y] for entry in front),
                mode="lines",
                line=style,
                hoverinfo="skip",
            ),
            _dots(front, x, y, colours, size=7, opacity=1.0),
            _badges(members, x, y, colours),
        ]
    )
    costs = [entry.metrics[x] for entry in (*judged, *members)]
    wide = min(costs) > 0 and max(costs) / min(costs) > WIDE
    _axes(plot, LABELS.get(metric, metric), "validation loss", x_type="log" if wide else "linear")
    return Figure(f"{side} px", _front_note(run, side, len(front)), _plain(plot))


def _front_note(run: RunData, side: int, size: int) -> str:
    words = [f"{size} on the front"] if size else []
    if side in run.hypervolume:
        words.append(f"hypervolume {run.hypervolume[side]:.4f}")
    return ", ".join(words)


def _dots(
    entries: Sequence[Judged | Member],
    x: str,
    y: str,
    colours: CostColours,
    *,
    size: int,
    opacity: float,
) -> go.Scatter:
    marker = {"size": size, "opacity": opacity, "color": [colours(e.metrics) for e in entries]}
    return go.Scatter(
        x=_short(entry.metrics[x] for entry in entries),
        y=_short(entry.metrics[y] for entry in entries),
        mode="markers",
        marker=marker,
        customdata=[_hover(entry, (x, y)) for entry in entries],
        hovertemplate="%{customdata}<extra></extra>",
    )


def _badges(members: Sequence[Member], x: str, y: str, colours: CostColours) -> go.Scatter:
    badges = _dots(members, x, y, colours, size=18, opacity=1.0)
    return badges.update(
        mode="markers+text",
        text=[str(member.number) for member in members],
        textfont={"size": 10, "weight": 700, "color": "#ffffff"},
        marker_line={"width": 1.5, "color": "var(--surface)"},
        customdata=[_hover(member, list(member.metrics)) for member in members],
    )


def _hover(entry: Judged | Member, names: Sequence[str]) -> str:
    shown = [f"{name} {metric_value(name, entry.metrics[name])}" for name in names]
    return "<br>".join([f"<b>{entry.id}</b>", *shown])


def _thinned(values: Sequence[Any]) -> list[Any]:
    """Return at most `POINTS` of the values, evenly spread, the ends always."""
    places = np.linspace(0, len(values) - 1, min(len(values), POINTS)).astype(int)
    return [values[place] for place in places]


def _short(values: Iterable[float]) -> list[float]:
    """Return values with as many digits as can be seen."""
    return [float(f"{value:.5g}") for value in values]


def search_progress(run: RunData) -> Figure | None:
    """Return how the front's worth grew with the number of judged architectures."""
    side = max((s for s in run.fronts), default=None)
    names = (f"loss@{side}", f"macs@{side}")
    points = [
        [entry.metrics[name] for name in names] if entry.feasible else [np.inf, np.inf]
        for entry in run.judged
        if all(name in entry.metrics for name in names)
    ]
    if len(points) < 2 or not np.isfinite(points).any():
        return None
    values = np.array(points)
    reference = np.array([1.0, values[np.isfinite(values[:, 1]), 1].max()])
    counts = _thinned(range(1, len(values) + 1))
    worth = [hypervolume(values[:n], reference) for n in counts]
    if worth[-1] <= 0:
        return None
    plot = go.Figure(
        go.Scatter(
            x=counts,
            y=_short(part / worth[-1] for part in worth),
            mode="lines",
            line={"color": "var(--accent)", "width": 2, "shape": "hv"},
            hovertemplate="%{x} judged: %{y:.1%}<extra></extra>",
        )
    )
    _axes(plot, "architectures judged", "hypervolume, of the last")
    plot.update_yaxes(tickformat=".0%")
    return Figure("Search progress", f"loss and MACs at {side} px", _plain(plot))


def training(run: RunData) -> list[Figure]:
    """Return the losses of the subnets' roles, one figure per resolution."""
    found = []
    for side in run.resolutions:
        steps = [step for step in run.steps if step["resolution"] == side]
        checks = [e for e in run.of("validation") if str(side) in e["losses"]]
        traces = [*_role_curves(steps), *_validation(checks, side)]
        if traces:
            plot = go.Figure(traces)
            _axes(plot, "step", "loss", y_type="log")
            plot.add_hline(y=1.0, line={"color": "var(--ink-3)", "width": 1, "dash": "dot"})
            found.append(Figure(f"{side} px", f"{len(steps)} steps", _plain(plot)))
    return found


def _role_curves(steps: Sequence[Mapping[str, Any]]) -> Iterable[go.Scatter]:
    for role, place in ROLES.items():
        seen = [step for step in steps if step.get("losses", {}).get(role) is not None]
        if not seen:
            continue
        x = np.array([step["step"] for step in seen])
        y = np.array([step["losses"][role] for step in seen], dtype=np.float64)
        faint = _curve(x, y, ramp(place), role, width=1, opacity=0.18)
        yield faint.update(hoverinfo="skip", hovertemplate=None)
        yield _curve(x, smoothed(y), ramp(place), role, width=2)


def _validation(checks: Sequence[Mapping[str, Any]], side: int) -> Iterable[go.Scatter]:
    roles = dict.fromkeys(role for check in checks for role in check["losses"][str(side)])
    for role in roles:
        seen = [check for check in checks if role in check["losses"][str(side)]]
        yield go.Scatter(
            x=[check["step"] for check in seen],
            y=[check["losses"][str(side)][role] for check in seen],
            mode="markers",
            name=f"{role}, validation",
            marker={
                "size": 8,
                "color": ramp(ROLES.get(role, 0.5)),
                "line": {"width": 1.5, "color": "var(--surface)"},
            },
            hovertemplate=f"step %{{x}}<br>{role}, validation: %{{y:.4f}}<extra></extra>",
        )


def optimizer(run: RunData) -> list[Figure]:
    """Return the learning rate and the norm of the gradient over the steps."""
    found = []
    for key, title in (("learning_rate", "Learning rate"), ("grad_norm", "Gradient norm")):
        seen = [step for step in run.steps if step.get(key) is not None]
        if not seen:
            continue
        x = np.array([step["step"] for step in seen])
        y = np.array([step[key] for step in seen], dtype=np.float64)
        plot = go.Figure(_curve(x, y, "var(--accent)", title.lower(), width=1.5))
        log = key == "grad_norm" and y.min() > 0
        _axes(plot, "step", "", y_type="log" if log else "linear")
        plot.update_yaxes(exponentformat="power")
        found.append(Figure(title, f"last {y[-1]:.3g}", _plain(plot)))
    return found


def smoothed(values: np.ndarray) -> np.ndarray:
    """Return an exponential moving average, unbiased from its first value on."""
    keep = 1 - 1 / max(1.0, SMOOTHING * len(values))
    total, weight, means = 0.0, 0.0, []
    for value in values:
        total, weight = keep * total + value, keep * weight + 1
        means.append(total / weight)
    return np.array(means)


def _curve(
    x: np.ndarray, y: np.ndarray, colour: str, name: str, *, width: float, opacity: float = 1.0
) -> go.Scatter:
    return go.Scatter(
        x=_thinned(x.tolist()),
        y=_short(_thinned(y.tolist())),
        mode="lines",
        name=name,
        opacity=opacity,
        line={"color": colour, "width": width},
        hovertemplate=f"step %{{x}}<br>{name}: %{{y:.4g}}<extra></extra>",
    )


def _axes(
    plot: go.Figure, x: str, y: str, *, x_type: str = "linear", y_type: str = "linear"
) -> None:
    plot.update_layout(template="none", showlegend=False, hovermode="closest")
    plot.update_xaxes(title_text=x, type=x_type, **_ticks(plot, "x", x_type))
    plot.update_yaxes(title_text=y, type=y_type, **_ticks(plot, "y", y_type))


def _ticks(plot: go.Figure, axis: str, kind: str) -> dict[str, Any]:
    """Place the ticks of a logarithmic axis at 1, 2 and 5, named in plain numbers."""
    if kind != "log":
        return {}
    traces = plot.to_plotly_json()["data"]
    values = [value for trace in traces for value in trace[axis] if value > 0]
    low, high = np.log10(min(values)), np.log10(max(values))
    ticks = [d * 10.0**e for e in range(int(low) - 2, int(high) + 2) for d in (1, 2, 5)]
    ticks = [value for value in ticks if low - 0.3 <= np.log10(value) <= high + 0.3]
    return {"tickvals": ticks, "ticktext": [tick(value) for value in ticks]}


def _plain(plot: go.Figure) -> Mapping[str, Any]:
    content = plot.to_plotly_json()
    content["layout"].pop("template", None)
    return {
        "data": [dict(trace) for trace in content["data"]],
        "layout": content["layout"],
    }
