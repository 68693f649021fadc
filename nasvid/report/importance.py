"""The section on what blocks and units are worth, along the depth of the model."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from html import escape
from typing import Any

import plotly.graph_objects as go

from nasvid.host.words import counted
from nasvid.report.collect import RunData
from nasvid.report.plots import Figure, axes, plain, short

MEASURED = {
    "start": ("before training", "var(--ink-3)"),
    "trained": ("trained", "var(--accent)"),
}
"""When importance was measured -> words, and the colour of its bars."""
MOST, LONGEST = 40, 28
"""Names below the bars: no more of them, and none longer, are readable."""


def lead(run: RunData) -> str:
    """Return what was measured, and on what."""
    found = next(iter(run.importance.values()))
    words = [
        "Each block of the largest network was left out alone, on "
        f"{counted(int(found['clips']), 'held-out clip')} of each resolution with the same noise."
    ]
    if section := run.recipe.get("importance"):
        words.append(
            f"Random subnets prefer the blocks that are worth most before training (bias "
            f"{section['bias']:g})."
        )
    return " ".join(words)


def figures(run: RunData) -> list[Figure]:
    """Return what changes without each block, and what units carry; what there is of both."""
    drawn = [
        _figure(
            run,
            "blocks",
            "Loss without a block",
            "in the order of the model's blocks; above 0 the block is needed",
            "rise of the loss",
        ),
        _figure(
            run,
            "units",
            "Loss carried by heads, channels and units",
            "by how much the loss would change without each, to first order; the sum of a group, "
            "along the depth of the model; point at a bar for its name",
            "change of the loss",
        ),
    ]
    return [figure for figure in drawn if figure is not None]


def _figure(run: RunData, what: str, title: str, note: str, axis: str) -> Figure | None:
    bars = [
        _bars(words, colour, found[what])
        for when, found in run.importance.items()
        if found[what]
        for words, colour in [MEASURED[when]]
    ]
    if not bars:
        return None
    plot = go.Figure(bars)
    plot.update_layout(barmode="group")
    axes(plot, "", axis)
    names = [row["name"] for found in run.importance.values() for row in found[what]]
    if len(set(names)) > MOST or max(map(len, names)) > LONGEST:  # the pointer shows them
        plot.update_xaxes(showticklabels=False)
    plot.update_xaxes(type="category")
    return Figure(title, note, plain(plot))


def _bars(words: str, colour: str, rows: Sequence[Mapping[str, Any]]) -> go.Bar:
    return go.Bar(
        x=[row["name"] for row in rows],
        y=short(row["loss"] for row in rows),
        marker={"color": colour},
        customdata=[_hover(words, row) for row in rows],
        hovertemplate="%{customdata}<extra></extra>",
    )


def _hover(words: str, row: Mapping[str, Any]) -> str:
    lines = [f"<b>{escape(row['name'])}</b>, {words}", f"loss: {row['loss']:+.4g}"]
    if "outputs" in row:
        lines.append(f"predictions move by {row['outputs']:.2%}")
    if row.get("features") is not None:
        lines.append(f"hidden states move by {row['features']:.2%}")
    if "count" in row:
        lines.append(f"{counted(int(row['count']), 'unit')}, the most: {row['most']:.4g}")
    return "<br>".join(lines)
