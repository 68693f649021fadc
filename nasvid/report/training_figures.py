"""The figures of the training: losses of the subnets' roles, learning rate, gradient norm."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
import plotly.graph_objects as go

from nasvid.host.words import counted
from nasvid.report.collect import RunData
from nasvid.report.colours import ramp
from nasvid.report.plots import POINTS, Figure, axes, plain, scale, short
from nasvid.report.steps import Steps
from nasvid.shapes import Resolution

SMOOTHING = 0.04
"""A smoothed curve's time constant, as a fraction of the curve's length."""

ROLES = {"largest": 1.0, "random": 0.5, "smallest": 0.0}
"""Role of a subnet in a training step -> its position on the cost scale."""


def training(run: RunData) -> list[Figure]:
    """Return the losses of the subnets' roles, one figure per resolution."""
    found = []
    for resolution in run.resolutions:
        traces = list(_role_curves(run.steps, resolution))
        if traces:
            plot = go.Figure(traces)
            axes(plot, "step", "loss")
            scale(plot, "y", wide=4)
            if resolution in run.mean_loss:
                line = {"color": "var(--ink-3)", "width": 1, "dash": "dot"}
                plot.add_hline(y=run.mean_loss[resolution], line=line)
            made = counted(run.steps.at[resolution].total(), "step")
            found.append(Figure(resolution.label, made, plain(plot)))
    return found


def _role_curves(steps: Steps, resolution: Resolution) -> Iterable[go.Scatter]:
    for role, place in ROLES.items():
        if not (curve := steps.losses.get((resolution, role))):
            continue
        x, y = curve.drawn(POINTS)
        faint = _line(x, y, ramp(place), role, width=1, opacity=0.18)
        yield faint.update(hoverinfo="skip", hovertemplate=None)
        yield _line(x, smoothed(y), ramp(place), role, width=2)


def optimizer(run: RunData) -> list[Figure]:
    """Return the learning rate and the gradient norm over the steps."""
    found = []
    for key, title in (("learning_rate", "Learning rate"), ("grad_norm", "Gradient norm")):
        if not (curve := run.steps.settings.get(key)):
            continue
        x, y = curve.drawn(POINTS)
        plot = go.Figure(_line(x, y, "var(--accent)", title.lower(), width=1.5))
        axes(plot, "step", "")
        if key == "grad_norm":
            scale(plot, "y", wide=4)
        plot.update_yaxes(exponentformat="power")
        found.append(Figure(title, f"last {curve.value[-1]:.3g}", plain(plot)))
    return found


def smoothed(values: np.ndarray) -> np.ndarray:
    """Return an exponential moving average with bias correction."""
    keep = 1 - 1 / max(1.0, SMOOTHING * len(values))
    total, weight, means = 0.0, 0.0, []
    for value in values:
        total, weight = keep * total + value, keep * weight + 1
        means.append(total / weight)
    return np.array(means)


def _line(
    x: np.ndarray, y: np.ndarray, colour: str, name: str, *, width: float, opacity: float = 1.0
) -> go.Scatter:
    return go.Scatter(
        x=x.tolist(),
        y=short(y.tolist()),
        mode="lines",
        name=name,
        opacity=opacity,
        line={"color": colour, "width": width},
        hovertemplate=f"step %{{x}}<br>{name}: %{{y:.4g}}<extra></extra>",
    )
