"""Readable numbers, and a run's result in one sentence."""

from __future__ import annotations

from collections.abc import Mapping

from nasvid.host.words import bytes_text, counted, scaled
from nasvid.report.collect import RunData
from nasvid.report.goals import COST_NAMES, Goals, base, label


def quantity(value: float) -> str:
    """Return three significant digits and a prefix: 1234567 is `1.23M`."""
    number, prefix = scaled(value)
    return _digits(number) + prefix


def tick(value: float) -> str:
    """Return a round value as an axis shows it: 2000000 is `2M`."""
    number, prefix = scaled(value)
    return f"{number:g}{prefix}"


def duration(seconds: float) -> str:
    """Return a length of time: `0.8 s`, `42 s`, `6 min 12 s`, `3 h 5 min`."""
    if seconds < 9.95:
        return f"{seconds:.1f} s"
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60} s"
    return f"{whole // 3600} h {whole % 3600 // 60} min"


def metric_value(name: str, value: float) -> str:
    """Return a metric's value, formatted by the kind of metric."""
    plain = base(name)
    if plain in ("params", "macs", "activation_bytes"):
        return quantity(value)
    if plain == "peak_memory":
        return bytes_text(value)
    return _digits(value) if plain in COST_NAMES or abs(value) >= 10 else f"{value:.4f}"


def headline(run: RunData) -> str:
    """Return the run's result so far, from its files."""
    if run.members:
        return " ".join([_found(run), *_ends(run)])
    if run.evaluations:
        evaluated = counted(len(run.evaluations), "architecture")
        if run.unmet:
            return f"{evaluated} evaluated; none satisfies the constraints."
        return f"{evaluated} evaluated; the search is not finished."
    if run.steps:
        return f"Supernet trained for {counted(len(run.steps), 'step')}; not searched yet."
    return "Nothing has been trained yet."


def _found(run: RunData) -> str:
    params = [m.metrics["params"] for m in run.members if "params" in m.metrics]
    count = counted(len(run.members), "subnet")
    if not params:
        span = ""
    elif len(run.members) == 1:
        span = f" with {quantity(params[0])} parameters"
    else:
        span = f" with {quantity(min(params))} to {quantity(max(params))} parameters"
    among = (
        f", chosen from {counted(len(run.evaluations), 'evaluated architecture')}"
        if run.evaluations
        else ""
    )
    return f"{count}{span}{among}."


def _ends(run: RunData) -> list[str]:
    """Compare the smallest subnet with the largest at the highest resolution that has both."""
    goals, quality = run.goals, run.goals.quality
    costs = [name for name in goals.axes if name in COST_NAMES]
    for resolution in reversed(run.resolutions) if len(run.members) > 1 else ():
        for cost in (goals.key(name, resolution) for name in costs):
            if all(cost in member.metrics for member in run.members):
                ends = sorted(run.members, key=lambda member: member.metrics[cost])
                small, large = ends[0].metrics, ends[-1].metrics
                share = f"{small[cost] / large[cost]:.0%} of the largest's {label(base(cost))}"
                compared = _compared(
                    goals, small, large, goals.key(quality, resolution) if quality else ""
                )
                return [f"At {resolution.label} the smallest needs {share}{compared}."]
    return []


def _compared(
    goals: Goals, small: Mapping[str, float], large: Mapping[str, float], name: str
) -> str:
    """Return how two subnets differ in a metric, and whether higher or lower is better."""
    if name not in small or name not in large:
        return ""
    ours, theirs = small[name], large[name]
    difference = ours - theirs
    relative = difference / theirs if theirs > 0 else 0.0
    both = f"{metric_value(name, ours)} against {metric_value(name, theirs)}"
    how = "higher" if difference > 0 else "lower"
    if difference == 0 or 0 < abs(relative) < 0.0005:
        found = f"the same ({both}"
    elif ours > 0 and theirs > 0:
        found = f"{abs(relative):.1%} {how} ({both}"
    else:
        found = f"{how} ({both}"
    return f"; its {label(base(name))} is {found}; {goals.better(name)} is better)"


def _digits(value: float) -> str:
    """Return three significant digits, and all digits before the decimal point."""
    text = f"{value:.0f}" if abs(value) >= 1000 else f"{value:#.3g}"
    return text.rstrip(".")
