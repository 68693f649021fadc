"""The figures of the search: quality against cost at each resolution, and its progress."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from html import escape

import numpy as np
import plotly.graph_objects as go

from nasvid.evaluation import Evaluation
from nasvid.metrics.cost import COSTS
from nasvid.report.collect import Member, RunData
from nasvid.report.colours import CostColours
from nasvid.report.goals import Goals, base, label, listed, title
from nasvid.report.plots import Figure, axes, plain, scale, short, thinned
from nasvid.report.words import metric_value
from nasvid.search.pareto import hypervolume
from nasvid.shapes import Resolution


@dataclass(frozen=True, slots=True)
class Group:
    """The figures of one metric: its name, what its values mean, one figure per resolution."""

    title: str
    note: str
    figures: tuple[Figure, ...]


@dataclass(frozen=True, slots=True)
class Pair:
    """What a figure plots: metric `y` against metric `x`, by full name, at a resolution."""

    x: str
    y: str
    resolution: Resolution


def fronts(run: RunData) -> dict[str, list[Group]]:
    """Return name of the x axis -> the figures of each quality metric against it."""
    return {label(axis): against(run, axis) for axis in run.goals.axes}


def against(run: RunData, axis: str) -> list[Group]:
    """Return the figures of each measured quality metric against one metric, objectives first."""
    goals, groups = run.goals, []
    for name in goals.qualities:
        pairs = _pairs(run, axis, name) if name != axis else []
        figures = tuple(figure for pair in pairs if (figure := _front(run, pair)) is not None)
        if figures:
            metric = goals.metric(name)
            said = (metric.unit, f"{goals.better(name)} is better", metric.note)
            note = "; ".join(filter(None, said)) if metric.unit else metric.note
            groups.append(Group(label(name), note, figures))
    return groups


def _pairs(run: RunData, x: str, y: str) -> list[Pair]:
    """Return a pair per resolution, or a single one if neither metric depends on it."""
    goals, resolutions = run.goals, run.resolutions
    depend = [each for each in (goals.metric(x), goals.metric(y)) if each.per_resolution]
    return [
        Pair(goals.key(x, resolution), goals.key(y, resolution), resolution)
        for resolution in (resolutions if depend else resolutions[-1:])
        if all(each.is_at(resolution) for each in depend)
    ]


def _front(run: RunData, pair: Pair) -> Figure | None:
    """Return a figure; a line joins the front only if these two metrics are its objectives."""
    x, y = pair.x, pair.y
    evaluated = [entry for entry in run.evaluations if x in entry.metrics and y in entry.metrics]
    members = [member for member in run.members if x in member.metrics and y in member.metrics]
    if not evaluated and not members:
        return None
    front = sorted(
        (entry for entry in evaluated if entry.arch.id in run.fronts.get(pair.resolution, ())),
        key=lambda entry: (entry.metrics[x], entry.metrics[y]),
    )
    colours = CostColours(run)
    traces = [_dots(run, pair, thinned(evaluated), colours, size=6, opacity=0.35)]
    is_front = {x, y} == set(run.goals.at(pair.resolution))
    if is_front:
        traces.append(_line(run.goals, pair, front))
    traces.append(_dots(run, pair, front, colours, size=7, opacity=1.0))
    traces.append(_badges(run, pair, members, colours))
    plot = go.Figure(traces)
    axes(plot, title(run.goals, x), title(run.goals, y))
    scale(plot, "x", wide=40)
    changes = "@" in x or "@" in y
    heading = pair.resolution.label if changes else "at every resolution"
    note = _front_note(run, pair.resolution, len(front), is_front=is_front)
    return Figure(heading, note, plain(plot))


def _line(goals: Goals, pair: Pair, front: Sequence[Evaluation]) -> go.Scatter:
    """Join the front by a staircase."""
    shape = "hv" if goals.better(pair.x) == "lower" else "vh"
    return go.Scatter(
        x=short(entry.metrics[pair.x] for entry in front),
        y=short(entry.metrics[pair.y] for entry in front),
        mode="lines",
        name="front",
        line={"color": "var(--ink-3)", "width": 1.5, "shape": shape},
        hoverinfo="skip",
    )


def _front_note(run: RunData, resolution: Resolution, size: int, *, is_front: bool) -> str:
    words = [f"{size} on the front"] if size else []
    worth = run.hypervolume.get(resolution, 0.0)
    if is_front and worth > 0 and _box(run, resolution) is not None:
        words.append(f"hypervolume {worth:.4f}")
    return ", ".join(words)


def _dots(
    run: RunData,
    pair: Pair,
    entries: Sequence[Evaluation],
    colours: CostColours,
    *,
    size: int,
    opacity: float,
) -> go.Scatter:
    marker = {
        "size": size,
        "opacity": opacity,
        "color": [colours(entry.metrics) for entry in entries],
        "symbol": ["circle" if entry.feasible else "circle-open" for entry in entries],
    }
    return go.Scatter(
        x=short(entry.metrics[pair.x] for entry in entries),
        y=short(entry.metrics[pair.y] for entry in entries),
        mode="markers",
        marker=marker,
        customdata=[_hover(run.goals, entry, (pair.x, pair.y)) for entry in entries],
        hovertemplate="%{customdata}<extra></extra>",
    )


def _badges(
    run: RunData, pair: Pair, members: Sequence[Member], colours: CostColours
) -> go.Scatter:
    evaluations = [member.evaluation for member in members]
    badges = _dots(run, pair, evaluations, colours, size=18, opacity=1.0)
    return badges.update(
        mode="markers+text",
        text=[str(member.number) for member in members],
        textfont={"size": 10, "weight": 700, "color": "#ffffff"},
        marker_line={"width": 1.5, "color": "var(--surface)"},
        customdata=[_hover(run.goals, entry, list(entry.metrics)) for entry in evaluations],
    )


def _hover(goals: Goals, entry: Evaluation, names: Sequence[str]) -> str:
    shown = [_hover_line(goals, name, entry.metrics[name]) for name in names]
    missed = [] if entry.feasible else ["violates a constraint"]
    return "<br>".join([f"<b>{escape(entry.arch.id)}</b>", *shown, *missed])


def _hover_line(goals: Goals, name: str, value: float) -> str:
    unit = " ms" if base(name) == "latency_ms" else ""
    better = f" ({goals.better(name)} is better)" if base(name) in goals.qualities else ""
    return escape(f"{label(name)}: {metric_value(name, value)}{unit}{better}")


def search_progress(run: RunData) -> Figure | None:
    """Return how results improved with the number of architectures evaluated.

    Shown as the hypervolume at the highest resolution if all objectives have a worst value to
    measure it from; otherwise as the best value of the first objective.
    """
    if not run.fronts:
        return None
    resolution = max(run.fronts)
    box = _box(run, resolution)
    return _best(run, resolution) if box is None else _hypervolume(run, resolution, box)


def _box(run: RunData, resolution: Resolution) -> dict[str, tuple[float, float]] | None:
    """Return the ideal and the worst value of each objective; None if any has no worst value.

    A cost's worst value is that of the most expensive architecture evaluated.
    """
    box = {}
    costs = [metric.name for metric in COSTS]
    for name in run.goals.at(resolution):
        metric, worst = run.goals.metric(name), run.goals.metric(name).reference
        if metric.name in costs:
            worst = max(
                (e.metrics[name] for e in run.evaluations if name in e.metrics), default=None
            )
        if worst is None:
            return None
        box[name] = (metric.ideal or 0.0, worst)
    return box or None


def _hypervolume(
    run: RunData, resolution: Resolution, box: dict[str, tuple[float, float]]
) -> Figure | None:
    counts, worth = _growth(run, box)
    if not worth or worth[-1] <= 0:
        return None
    percent = [100 * part / worth[-1] for part in worth]
    plot = _progress(counts, percent, "hypervolume", "%")
    room = max(0.05 * (100 - percent[0]), 1)
    plot.update_yaxes(range=[percent[0] - room, 100 + room])
    of = listed(label(base(name)) for name in box)
    return Figure(
        "Search progress",
        f"hypervolume of {of} at {resolution.label}, in % of its final value",
        plain(plot),
    )


def _growth(run: RunData, box: dict[str, tuple[float, float]]) -> tuple[list[int], list[float]]:
    """Return numbers of evaluated architectures, and the hypervolume after each.

    An architecture that violates a constraint is outside the box.
    """
    evaluated = [entry for entry in run.evaluations if all(name in entry.metrics for name in box)]
    if not evaluated:
        return [], []
    # Scaled to 0 at the ideal and 1 at the worst, whichever of the two is larger.
    ideal, worst = (np.array(column) for column in zip(*box.values(), strict=True))
    points = np.array([[entry.metrics[name] for name in box] for entry in evaluated])
    points = (points - ideal) / (worst - ideal)
    points[[not entry.feasible for entry in evaluated]] = np.inf
    counts = thinned(range(1, len(points) + 1))
    return counts, [hypervolume(points[:n], np.ones(len(box))) for n in counts]


def _best(run: RunData, resolution: Resolution) -> Figure | None:
    """Return the best value so far of the first objective, among feasible architectures."""
    name = run.goals.at(resolution)[0] if run.goals.objectives else ""
    known = [(n, e) for n, e in enumerate(run.evaluations, start=1) if e.feasible]
    values = [(n, entry.metrics[name]) for n, entry in known if name in entry.metrics]
    if not values:
        return None
    pick = np.minimum if run.goals.better(name) == "lower" else np.maximum
    best = pick.accumulate([value for _, value in values]).tolist()
    plot = _progress([n for n, _ in values], best, label(base(name)), "")
    note = f"best {label(name)} so far; {run.goals.better(name)} is better"
    return Figure("Search progress", note, plain(plot))


def _progress(counts: list[int], values: list[float], what: str, unit: str) -> go.Figure:
    plot = go.Figure(
        go.Scatter(
            x=thinned(counts),
            y=short(thinned(values)),
            mode="lines",
            line={"color": "var(--accent)", "width": 2, "shape": "hv"},
            hovertemplate=f"%{{x}} evaluated: %{{y:.4g}}{unit}<extra></extra>",
        )
    )
    axes(plot, "architectures evaluated", f"{what} ({unit})" if unit else what)
    return plot
