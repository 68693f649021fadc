"""The figures of the search: cost against quality at each resolution, and its progress."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape

import numpy as np
import plotly.graph_objects as go

from nasvid.evaluation import Evaluation
from nasvid.report.collect import Member, RunData
from nasvid.report.colours import CostColours
from nasvid.report.plots import Figure, axes, plain, scale, short, thinned
from nasvid.report.words import LABELS, metric_value
from nasvid.search.pareto import hypervolume


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
    evaluated = [entry for entry in run.evaluations if x in entry.metrics and y in entry.metrics]
    members = [member for member in run.members if x in member.metrics and y in member.metrics]
    if not evaluated and not members:
        return None
    front = sorted(
        (entry for entry in evaluated if entry.arch.id in run.fronts.get(side, ())),
        key=lambda entry: entry.metrics[x],
    )
    style = {"color": "var(--ink-3)", "width": 1.5, "shape": "hv"}
    plot = go.Figure(
        [
            _dots(thinned(evaluated), x, y, colours, size=6, opacity=0.35),
            go.Scatter(
                x=short(entry.metrics[x] for entry in front),
                y=short(entry.metrics[y] for entry in front),
                mode="lines",
                line=style,
                hoverinfo="skip",
            ),
            _dots(front, x, y, colours, size=7, opacity=1.0),
            _badges(members, x, y, colours),
        ]
    )
    axes(plot, LABELS.get(metric, metric), "validation loss")
    scale(plot, "x", wide=40)
    return Figure(f"{side} px", _front_note(run, side, len(front)), plain(plot))


def _front_note(run: RunData, side: int, size: int) -> str:
    words = [f"{size} on the front"] if size else []
    if side in run.hypervolume:
        words.append(f"hypervolume {run.hypervolume[side]:.4f}")
    return ", ".join(words)


def _dots(
    entries: Sequence[Evaluation | Member],
    x: str,
    y: str,
    colours: CostColours,
    *,
    size: int,
    opacity: float,
) -> go.Scatter:
    marker = {"size": size, "opacity": opacity, "color": [colours(e.metrics) for e in entries]}
    return go.Scatter(
        x=short(entry.metrics[x] for entry in entries),
        y=short(entry.metrics[y] for entry in entries),
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


def _hover(entry: Evaluation | Member, names: Sequence[str]) -> str:
    shown = [f"{name} {metric_value(name, entry.metrics[name])}" for name in names]
    return "<br>".join([f"<b>{escape(entry.arch.id)}</b>", *shown])


def search_progress(run: RunData) -> Figure | None:
    """Return how the hypervolume at the highest resolution grew as architectures were evaluated."""
    if not run.fronts:
        return None
    side = max(run.fronts)
    counts, worth = _growth(run, f"loss@{side}", f"macs@{side}")
    if not worth or worth[-1] <= 0:
        return None
    percent = [100 * part / worth[-1] for part in worth]
    plot = go.Figure(
        go.Scatter(
            x=counts,
            y=short(percent),
            mode="lines",
            line={"color": "var(--accent)", "width": 2, "shape": "hv"},
            hovertemplate="%{x} evaluated: %{y:.4g}%<extra></extra>",
        )
    )
    axes(plot, "architectures evaluated", "hypervolume (%)")
    room = max(0.05 * (100 - percent[0]), 1)
    plot.update_yaxes(range=[percent[0] - room, 100 + room])
    return Figure("Search progress", f"at {side} px, in % of its end", plain(plot))


def _growth(run: RunData, *names: str) -> tuple[list[int], list[float]]:
    """Return numbers of evaluated architectures and the hypervolume that so many give.

    The box reaches to a loss of 1 and the most expensive architecture; infeasible ones are outside.
    """
    evaluated = [entry for entry in run.evaluations if all(name in entry.metrics for name in names)]
    if not evaluated:
        return [], []
    points = np.array([[entry.metrics[name] for name in names] for entry in evaluated])
    reference = np.array([1.0, points[:, 1].max()])
    points[[not entry.feasible for entry in evaluated]] = np.inf
    counts = thinned(range(1, len(points) + 1))
    return counts, [hypervolume(points[:n], reference) for n in counts]
