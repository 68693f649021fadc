"""Numbers as people read them, and a run's result in one sentence."""

from __future__ import annotations

from collections.abc import Mapping

from nasvid.report.collect import RunData

PREFIXES = ((1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k"))

LABELS = {
    "macs": "MACs",
    "params": "parameters",
    "latency_ms": "latency (ms)",
    "latency_rel": "latency, of the largest's",
}
"""Metrics whose names do not speak for themselves."""


def quantity(value: float) -> str:
    """Return three significant digits and a prefix: 1234567 is `1.23M`."""
    scaled, prefix = _scaled(value)
    return _digits(scaled) + prefix


def tick(value: float) -> str:
    """Return a round value as an axis shows it: 2000000 is `2M`."""
    scaled, prefix = _scaled(value)
    return f"{scaled:g}{prefix}"


def _scaled(value: float) -> tuple[float, str]:
    for size, prefix in PREFIXES:
        if abs(value) >= size * 0.9995:
            return value / size, prefix
    return value, ""


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
    """Return a metric's value, by the kind of metric."""
    base = name.partition("@")[0]
    if base in ("params", "macs", "activation_bytes"):
        return quantity(value)
    return f"{value:.4f}" if base == "loss" else _digits(value)


def headline(run: RunData) -> str:
    """Return what the run has come to, as far as its files say."""
    if run.members:
        return " ".join([_found(run), *_ends(run)])
    if run.evaluations:
        return f"{len(run.evaluations)} architectures evaluated; the search has not ended yet."
    if run.steps:
        return f"The supernet has been trained for {len(run.steps)} steps; not searched yet."
    return "Nothing has been trained yet."


def _found(run: RunData) -> str:
    params = [m.metrics["params"] for m in run.members if "params" in m.metrics]
    count = f"{len(run.members)} subnet{'s' if len(run.members) > 1 else ''}"
    if not params:
        span = ""
    elif len(run.members) == 1:
        span = f" of {quantity(params[0])} parameters"
    else:
        span = f" from {quantity(min(params))} to {quantity(max(params))} parameters"
    among = (
        f", chosen from {len(run.evaluations)} evaluated architectures" if run.evaluations else ""
    )
    return f"{count}{span}{among}."


def _ends(run: RunData) -> list[str]:
    """Compare the cheapest subnet with the dearest at the highest resolution that has both."""
    cheap, dear = run.members[0].metrics, run.members[-1].metrics
    for side in reversed(run.resolutions):
        macs, loss = f"macs@{side}", f"loss@{side}"
        if len(run.members) > 1 and all(name in m for name in (macs, loss) for m in (cheap, dear)):
            share = cheap[macs] / dear[macs]
            return [
                f"At {side} px the cheapest needs {share:.0%} of the dearest's MACs; "
                f"its validation loss is {_compared(cheap, dear, loss)}."
            ]
    return []


def _compared(cheap: Mapping[str, float], dear: Mapping[str, float], name: str) -> str:
    ratio = cheap[name] / dear[name] - 1
    both = f"{cheap[name]:.4f} against {dear[name]:.4f}"
    if abs(ratio) < 0.0005:
        return f"the same ({both})"
    return f"{abs(ratio):.1%} {'higher' if ratio > 0 else 'lower'} ({both})"


def _digits(value: float) -> str:
    """Return three significant digits, and all those before the point."""
    text = f"{value:.0f}" if abs(value) >= 1000 else f"{value:#.3g}"
    return text.rstrip(".")
