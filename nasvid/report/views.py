"""The contents of the page's sections, as plain values for the template."""

from __future__ import annotations

import shlex
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from itertools import zip_longest
from typing import Any

from nasvid.report import forms
from nasvid.report.clips import Shown
from nasvid.report.collect import REAL, Member, RunData
from nasvid.report.colours import CostColours
from nasvid.report.goals import Goals, base, label, listed
from nasvid.report.words import duration, metric_value, quantity
from nasvid.shapes import Resolution

COARSE = 96
"""Up to this resolution, pixels are shown as squares rather than blurred."""


@dataclass(frozen=True, slots=True)
class Column:
    """The head of one column of samples; `number` is None for validation clips."""

    name: str
    number: int | None
    colour: str
    notes: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Samples:
    """The samples at one resolution: rows of (prompt, URLs of pictures or None)."""

    resolution: Resolution
    coarse: bool
    columns: tuple[Column, ...]
    rows: tuple[tuple[str, tuple[str | None, ...]], ...]


Cell = tuple[str, float | None]
"""A cell's text, and its value for sorting, comparing and downloading."""


@dataclass(frozen=True, slots=True)
class Table:
    """The members' metrics: heads are (metric, arrow for the better direction, full names below
    it), rows (member, colour, fraction of the largest's parameters, cells)."""

    heads: tuple[tuple[str, str, tuple[str, ...]], ...]
    rows: tuple[tuple[Member, str, Cell, tuple[Cell, ...]], ...]


def facts(run: RunData) -> list[tuple[str, str]]:
    """Return when, where and with what a run was made, as (label, value)."""
    environment = run.environment
    packages = environment.get("packages", {})
    rows = [
        ("when", _date(run.ended) if run.ended is not None else None),
        ("scale", environment.get("scale")),
        ("device", environment.get("device_name") or environment.get("device")),
        ("precision", str(environment.get("precision") or "").removeprefix("torch.")),
        ("resolutions", ", ".join(each.label for each in run.resolutions)),
        ("autoencoder", _vae(run)),
        ("nasvid", packages.get("nasvid")),
        ("torch", packages.get("torch")),
    ]
    return [(label, str(value)) for label, value in rows if value]


def _vae(run: RunData) -> str:
    if not run.vae:
        return ""
    psnr = [
        f"{value:.1f} dB at {Resolution.parse(resolution).label}"
        for resolution, value in run.vae.get("psnr", {}).items()
    ]
    parts = [run.vae["name"], run.vae.get("compression"), *psnr]
    return ", ".join(filter(None, parts))


def _date(seconds: float) -> str:
    moment = datetime.fromtimestamp(seconds, UTC)
    return f"{moment.day} {moment:%B %Y, %H:%M} UTC"


def stages(run: RunData) -> list[tuple[str, float, str]]:
    """Return (stage, seconds, formatted duration), in order; resumed stages are summed."""
    total: dict[str, float] = {}
    for event in run.of("stage"):
        if event["status"] == "done":
            total[event["stage"]] = total.get(event["stage"], 0.0) + event["seconds"]
    return [(stage, seconds, duration(seconds)) for stage, seconds in total.items()]


def objectives(run: RunData) -> list[tuple[str, str]]:
    """Return the search's objectives and constraints, as (label, value)."""
    goals = run.goals
    wanted = ", ".join(_wish(goals, name) for name in goals.objectives)
    within = ", ".join(map(_within, goals.constraints)) or "none"
    rows = [("objectives", wanted), ("constraints", within)]
    return rows if goals.objectives else []


def _within(constraint: str) -> str:
    return f"{constraint} of the largest's" if constraint.endswith("%") else constraint


def _wish(goals: Goals, name: str) -> str:
    fewer = base(name) in ("macs", "params")
    return f"{'fewer' if fewer else goals.better(name)} {label(name)}"


def front_lead(run: RunData) -> str:
    """Return the explanation of the dots and lines in the search's figures."""
    feasible = all(entry.feasible for entry in run.evaluations)
    hollow = "" if feasible else "; hollow ones violate a constraint"
    sentences = [
        f"Each dot is an evaluated architecture ({len(run.evaluations)} in all){hollow}.",
        *(_front_sentences(run.goals) if run.fronts and run.goals.objectives else ()),
    ]
    if run.members:
        one, count = len(run.members) == 1, len(run.members)
        which = "The number marks the chosen subnet" if one else f"Numbers mark the {count} chosen"
        trained = ", as trained further alone" if run.recovered else ""
        sentences.append(f"{which}{'' if one else ' subnets, smallest first'}{trained}.")
    return " ".join(sentences)


def _front_sentences(goals: Goals) -> list[str]:
    names = list(dict.fromkeys(label(base(name)) for name in goals.objectives))
    if len(names) == 1:
        return [f"The solid dot has the best {names[0]}, the only objective."]
    within = " that satisfies the constraints" if goals.constraints else ""
    front = (
        f"Solid dots form the Pareto front of {listed(names)}: no evaluated architecture{within} "
        "is better in one objective without being worse in another."
    )
    if len(names) == 2:
        return [front, "A line joins it in figures that plot these two objectives."]
    return [front, f"No line joins it: a figure plots at most two of the {len(names)} objectives."]


def samples(run: RunData, pictures: Mapping[Shown, str]) -> list[Samples]:
    """Return the samples of each resolution that has some, the highest first."""
    colours = CostColours(run)
    found = []
    for resolution in sorted({resolution for _, resolution, _ in pictures}, reverse=True):
        present = {owner for owner, at, _ in pictures if at == resolution}
        members = [member for member in run.members if member.id in present]
        owners = [*(member.id for member in members), *({REAL} & present)]
        columns = [_column(member, resolution, colours) for member in members]
        if REAL in present:
            columns.append(Column("real", None, "", ("held-out", "clips")))
        count = 1 + max(
            index for owner, at, index in pictures if at == resolution and owner in owners
        )
        rows = tuple(
            (
                prompt or f"sample {index}",
                tuple(pictures.get((o, resolution, index)) for o in owners),
            )
            for index, prompt in zip_longest(range(count), run.prompts[:count])
        )
        found.append(
            Samples(
                resolution, min(resolution.height, resolution.width) <= COARSE, tuple(columns), rows
            )
        )
    return found


def _column(member: Member, resolution: Resolution, colours: CostColours) -> Column:
    notes = []
    if "params" in member.metrics:
        notes.append(f"{quantity(member.metrics['params'])} params")
    if f"macs@{resolution}" in member.metrics:
        notes.append(f"{quantity(member.metrics[f'macs@{resolution}'])} MACs")
    return Column(member.id[:6], member.number, colours(member.metrics), tuple(notes))


def table(run: RunData) -> Table:
    """Return all metrics of the members, one head each: those without resolutions first."""
    goals = run.goals
    measured = dict.fromkeys(name for member in run.members for name in member.metrics)
    known = [name for name in measured if not goals.metric(name).half_width_of]
    heads = []
    for plain in dict.fromkeys(map(base, known)):
        resolutions = sorted(
            Resolution.parse(n.partition("@")[2]) for n in known if n.startswith(f"{plain}@")
        )
        arrow = {"lower": "↓", "higher": "↑"}[goals.better(plain)]
        heads.append(
            (plain, arrow, tuple(f"{plain}@{resolution}" for resolution in resolutions) or (plain,))
        )
    heads.sort(key=lambda head: "@" in head[2][0])
    colours = CostColours(run)
    names = [name for _, _, below in heads for name in below]
    rows = [
        (
            member,
            colours(member.metrics),
            (share(run, member), member.metrics.get("params")),
            tuple(_with_interval(goals, name, member.metrics) for name in names),
        )
        for member in run.members
    ]
    return Table(tuple(heads), tuple(rows))


def notes(run: RunData) -> list[tuple[str, str]]:
    """Return (metric, what its reader must know) of the members' metrics."""
    shown = dict.fromkeys(base(name) for member in run.members for name in member.metrics)
    known = ((name, run.goals.metric(name)) for name in shown)
    return [(label(name), metric.note) for name, metric in known if metric.note]


def _with_interval(goals: Goals, name: str, metrics: Mapping[str, float]) -> Cell:
    """Return the cell of a metric, with half its 95 % interval if that is known."""
    text, value = _cell(name, metrics.get(name))
    width = metrics.get(goals.half_width(name))
    if value is None or width is None:
        return text, value
    decimals = len(text.partition(".")[2])
    return f"{text} ± {width:.{decimals}f}", value


def _cell(name: str, value: float | None) -> Cell:
    return ("" if value is None else metric_value(name, value)), value


def share(run: RunData, member: Member) -> str:
    """Return a member's parameters in % of the largest evaluated architecture's, or nothing."""
    if "params" not in member.metrics:
        return ""
    known = (entry.metrics.get("params", 0) for entry in (*run.evaluations, *run.members))
    return f"{member.metrics['params'] / max(known):.0%}"


def command(run: RunData, member: Member) -> str:
    """Return the command that samples a video from a subnet."""
    prompt = run.prompts[0] if run.prompts else "a prompt"
    words = ["nasvid", "sample", str(run.folder), "--subnet", member.id, "--prompt", prompt]
    return shlex.join(words)


def page(run: RunData) -> tuple[str, str] | None:
    """Return the title of the strategy's own page and the command that shows it, or None."""
    if not run.page:
        return None
    return run.page["title"], f"{run.page['verb']} {shlex.quote(str(run.folder))}"


def skipped(run: RunData) -> list[tuple[str, int]]:
    """Return (reason, count) of unusable samples, the most frequent first."""
    seen = {(event["shard"], event["key"]): event["reason"] for event in run.of("skip")}
    return Counter(seen.values()).most_common()


Tuned = tuple[list[str], list[tuple[Member | None, str, str, list[Cell]]]]
"""Heads, and (member, colour, id, cells) of each subnet that was trained further."""


def recovered(run: RunData) -> Tuned:
    """Return the candidates of the final choice, with the objectives before and after."""
    objectives = [name for name in run.goals.objectives if not run.goals.metric(name).known]
    return _tuned(run, run.recovered, objectives)


def finetuned(run: RunData) -> Tuned:
    """Return the fine-tuned subnets, with all that was measured before and after."""
    names = run.finetuned[0]["before"] if run.finetuned else ()
    return _tuned(run, run.finetuned, names)


def _tuned(run: RunData, entries: Iterable[Mapping[str, Any]], names: Iterable[str]) -> Tuned:
    colours, known = CostColours(run), {member.id: member for member in run.members}
    names, rows = list(names), []
    for entry in entries:
        member = known.get(entry["id"])
        colour = colours(member.metrics) if member else ""
        cells = [_cell(name, entry[when].get(name)) for name in names for when in FINETUNING]
        rows.append((member, colour, entry["id"], cells))
    return [f"{label(name)} {when}" for name in names for when in FINETUNING], rows


FINETUNING = ("before", "after")


def start(run: RunData) -> tuple[list[str], list[tuple[Cell, ...]]]:
    """Return heads and rows of subnets' losses before training; empty if trained from scratch."""
    costs, orders = run.start.get("costs", []), run.start.get("orders", [])
    heads = ["MACs", "of the largest", "parameters", *(forms.ORDERS[order] for order in orders)]
    rows = [
        (
            _cell("macs", cost["macs"]),
            (f"{cost['macs'] / costs[0]['macs']:.0%}", cost["macs"] / costs[0]["macs"]),
            _cell("params", cost["params"]),
            *(_cell("loss", cost[order]) for order in orders),
        )
        for cost in costs
    ]
    return heads, rows
