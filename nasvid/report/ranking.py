"""The section on whether what looks best in the supernet is best on its own."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from html import escape
from typing import Any

import plotly.graph_objects as go

from nasvid.host.words import counted
from nasvid.report.collect import RunData
from nasvid.report.colours import CostColours
from nasvid.report.plots import Figure, axes, plain, short
from nasvid.report.views import Cell
from nasvid.report.words import metric_value

HEADS = ("subnet", "parameters", "MACs", "inherited loss", "loss alone", "inherited / alone")


def rows(run: RunData) -> list[tuple[str, str, list[Cell]]]:
    """Return the id, colour and cells of each architecture trained alone, ascending in MACs."""
    colours = CostColours(run)
    return [
        (
            row["id"],
            colours(row),
            [
                *((metric_value(name, row[name]), row[name]) for name in ("params", "macs")),
                *((metric_value("loss", loss), loss) for loss in _losses(row)),
                (f"{_ratio(row):.3f}", _ratio(row)),
            ],
        )
        for row in _by_macs(run)
    ]


def figure(run: RunData) -> Figure | None:
    """Return the inherited loss against the loss alone, with the diagonal; None without any."""
    found, colours = _by_macs(run), CostColours(run)
    if not found:
        return None
    inherited, alone = zip(*map(_losses, found), strict=True)
    room = 0.06 * (max(*inherited, *alone) - min(*inherited, *alone))
    ends = [min(*inherited, *alone) - room, max(*inherited, *alone) + room]
    diagonal = go.Scatter(
        x=ends,
        y=ends,
        mode="lines",
        line={"color": "var(--ink-3)", "width": 1, "dash": "dot"},
        hoverinfo="skip",
    )
    dots = go.Scatter(
        x=short(alone),
        y=short(inherited),
        mode="markers",
        marker={"size": 9, "color": [colours(row) for row in found]},
        customdata=[_hover(row) for row in found],
        hovertemplate="%{customdata}<extra></extra>",
    )
    plot = go.Figure([diagonal, dots])
    plot.update_xaxes(range=ends)
    plot.update_yaxes(range=ends)
    axes(plot, "loss of the same architecture trained alone", "inherited loss")
    note = "mean over the resolutions; the dotted line is equality"
    return Figure("Inherited loss against loss alone", note, plain(plot))


def lead(run: RunData) -> str:
    """Return what was compared, and with what result."""
    found, steps = run.ranking["subnets"], run.ranking["settings"]["steps"]
    words = [
        f"{counted(len(found), 'architecture')} that span the space, each trained alone from "
        f"random weights for {counted(steps, 'step')}, on the clips and noise of the supernet's "
        "steps. On the dotted line a subnet is as good as its architecture alone, above it worse."
    ]
    if run.ranking["agreement"] is None:
        left = run.ranking["n"] - len(found)
        return " ".join([*words, f"{counted(left, 'more is', 'more are')} not trained yet."])
    ratio = run.ranking["agreement"]["ratio"]
    words.append(
        f"The inherited loss is {_more(ratio['median'])} in the median, {_more(ratio['max'])} at "
        f"worst, and {_more(ratio['largest'])} for the largest."
    )
    return " ".join(words)


def correlations(run: RunData) -> list[str]:
    """Return in words how well the inherited loss and the costs predict the loss alone."""
    agreement = run.ranking["agreement"]
    if agreement is None:
        return []
    of, pairs = agreement["predictors"], agreement["pairs"]
    words = [
        "Of two architectures, the one with the lower inherited loss also has the lower loss alone "
        f"in {_share(of['inherited']['tau'])} of {counted(pairs['all'], 'pair')}. Counting MACs is "
        f"right in {_share(of['macs']['tau'])}, counting parameters in "
        f"{_share(of['params']['tau'])}."
    ]
    if pairs["in_bands"]:
        words.append(
            "Where both cost about the same (within one of four bands of MACs, "
            f"{counted(pairs['in_bands'], 'pair')}), the inherited loss is right in "
            f"{_share(of['inherited']['tau_in_bands'])}, MACs in "
            f"{_share(of['macs']['tau_in_bands'])}, and parameters in "
            f"{_share(of['params']['tau_in_bands'])}."
        )
    return words


def estimates(run: RunData) -> list[tuple[str, list[Cell]]]:
    """Return each predictor and its correlations with the loss alone, with 95% intervals."""
    agreement = run.ranking["agreement"] or {"predictors": {}}
    return [
        (PREDICTORS[name], [_estimate(found[key]) for key in STATISTICS])
        for name, found in agreement["predictors"].items()
    ]


PREDICTORS = {"inherited": "inherited loss", "macs": "MACs", "params": "parameters"}
"""What may predict the loss alone, in words."""
STATISTICS = {
    "tau": "Kendall's tau",
    "rho": "Spearman's rho",
    "tau_in_bands": "tau at equal cost",
}
"""Correlations, in words."""


def _share(tau: Sequence[float] | None) -> str:
    """Return the share of pairs in the right order: (1 + tau) / 2."""
    return "an undefined share" if tau is None else f"{(1 + tau[0]) / 2:.0%}"


def _estimate(found: Sequence[float] | None) -> Cell:
    if found is None:
        return "not defined", None
    value, low, high = found
    return f"{value:.2f} [{low:.2f} to {high:.2f}]", value


def _more(ratio: float) -> str:
    return f"{abs(ratio - 1):.1%} {'higher' if ratio >= 1 else 'lower'}"


def _by_macs(run: RunData) -> list[Mapping[str, Any]]:
    return sorted(run.ranking.get("subnets", ()), key=lambda row: row["macs"])


def _losses(row: Mapping[str, Any]) -> tuple[float, float]:
    return row["inherited"]["loss"], row["alone"]["loss"]


def _ratio(row: Mapping[str, Any]) -> float:
    inherited, alone = _losses(row)
    return inherited / alone


def _hover(row: Mapping[str, Any]) -> str:
    inherited, alone = _losses(row)
    lines = [
        f"<b>{escape(row['id'])}</b>",
        f"{metric_value('macs', row['macs'])} MACs",
        f"inherited loss: {inherited:.4f}",
        f"loss alone: {alone:.4f}",
    ]
    return "<br>".join(lines)
