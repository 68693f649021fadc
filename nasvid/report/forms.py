"""What the report needs of a run's files: each value of the type that the page shows.

Each function returns the content of one file; what it raises for another is `MALFORMED`.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import lru_cache
from typing import Any

from nasvid.architecture import Choice
from nasvid.host.reading import as_list, as_number, as_object, as_text
from nasvid.layout import Layout
from nasvid.report.goals import Goals
from nasvid.shapes import Resolution

Space = tuple[tuple[Choice, ...], Layout]
"""A space's choices and how they are drawn."""
TYPES: Mapping[str, type | tuple[type, ...]] = {
    "step": int,
    "steps": int,
    "skipped": int,
    "resolution": (int, str),
    "learning_rate": (int, float),
    "grad_norm": (int, float),
    "loss": (int, float),
    "time": (int, float),
    "seconds": (int, float),
    "losses": dict,
    "groups": list,
    **dict.fromkeys(("stage", "status", "shard", "key", "reason"), str),
}
NEEDED = {
    "step": ("step", "resolution"),
    "stage": ("stage", "status"),
    "skip": ("shard", "key", "reason"),
}
"""Of what type the values of an event are, and which ones an event of a kind has."""

LAST = 2**53
"""More steps than any training has."""

ORDERS = {"given": "loss, units in original order", "sorted": "loss, units sorted by importance"}
"""How the units of the model that a supernet was initialised from were ordered, in words."""


def environment(value: Any) -> dict[str, Any]:
    """Return `environment.json`."""
    as_object(as_object(value).get("packages", {}))
    return value


def split(value: Any) -> dict[str, Any]:
    """Return what the index of a split found."""
    as_number(value["clips"])
    return value


def by_resolution(values: Mapping[str, float | None]) -> dict[Resolution, float]:
    """Return numbers by resolution, without those that were not finite."""
    return {
        Resolution.parse(resolution): as_number(value)
        for resolution, value in values.items()
        if value is not None
    }


def metrics(value: Any) -> dict[str, Any]:
    """Return `evaluate/metrics.json`."""
    for found in as_object(value["metrics"]).values():
        for number in as_object(found).values():
            if number is not None:
                as_number(number)
    Goals.of({}, as_object(value.get("declared", {})))
    return value


def space(value: Any) -> Space:
    """Return `train/space.json`."""
    choices = tuple(
        Choice(entry["name"], tuple(entry["options"]), entry.get("requires"))
        for entry in value.get("choices", [])
    )
    layout = Layout.from_json(value.get("layout", []))
    if layout.parts:
        layout.check(choices)
    return choices, layout


def texts(value: Any) -> tuple[str, ...]:
    """Return `samples/prompts.json`."""
    return tuple(map(str, as_list(value)))


def tuned(value: Any) -> tuple[Mapping[str, Any], ...]:
    """Return the subnets of `finetune/finetuned.json`."""
    entries = as_list(value["subnets"])
    for entry in entries:
        as_text(entry["id"])
        for name, number in as_object(entry["before"]).items():
            as_number(number)
            as_number(entry["after"][name])
    return tuple(entries)


def recovered(value: Any) -> tuple[Mapping[str, Any], ...]:
    """Return the candidates of `recover/recovered.json`; what was not finite is null."""
    entries = as_list(value["subnets"])
    for entry in entries:
        as_text(entry["id"])
        for found in (as_object(entry["before"]), as_object(entry["after"])):
            for number in found.values():
                as_number(0 if number is None else number)
    return tuple(entries)


def vae(value: Any) -> dict[str, Any]:
    """Return `vae/quality.json`."""
    as_text(value["name"])
    as_text(value.get("compression", ""))
    for number in as_object(value.get("psnr", {})).values():
        as_number(number)
    return value


def start(value: Any) -> dict[str, Any]:
    """Return `train/start.json`."""
    as_text(value["init_from"])
    orders = as_list(value["orders"])
    for order in orders:
        if order not in ORDERS:
            raise ValueError(f"it has no order {order!r}")
    for cost in as_list(value["costs"]):
        for name in ("macs", "params", *orders):
            as_number(cost[name])
    return value


RANK_AGAIN = "nasvid rank makes it again"
"""How to mend a ranking."""


def ranking(value: Any) -> dict[str, Any]:
    """Return `rank/ranking.json`."""
    as_number(value["settings"]["steps"])
    as_number(value["n"])
    for row in as_list(value["subnets"]):
        as_text(row["id"])
        losses = (row["inherited"]["loss"], row["alone"]["loss"])
        for number in (row["params"], row["macs"], *losses):
            as_number(number)
    if (found := value["agreement"]) is not None:
        for number in (*found["pairs"].values(), *found["ratio"].values()):
            as_number(number)
        for estimates in found["predictors"].values():
            for estimate in as_object(estimates).values():
                for number in estimate or ():
                    as_number(number)
    return value


def importance(value: Any) -> dict[str, Any]:
    """Return `importance/start.json` or `importance/trained.json`."""
    as_number(value["clips"])
    for block in as_list(value["blocks"]):
        as_text(block["name"])
        for number in (block["loss"], block["outputs"], block["features"] or 0):
            as_number(number)
    for units in as_list(value["units"]):
        as_text(units["name"])
        for number in (units["count"], units["loss"], units["most"]):
            as_number(number)
    return value


def unmet(value: Any) -> dict[str, Any]:
    """Return `search/unmet.json`."""
    as_text(value["why"])
    return value


def page(value: Any) -> dict[str, Any]:
    """Return a strategy's `page.json`."""
    as_text(value["title"])
    return value


def event(value: Any) -> dict[str, Any]:
    """Return one line of `events.jsonl`."""
    found = as_object(value)
    for key, types in TYPES.items():
        if found.get(key) is not None and not isinstance(found[key], types):
            raise TypeError(f"its {key} is a {type(found[key]).__name__}")
    kind = str(found.get("event"))
    needed = NEEDED.get(kind, ())
    done = ("seconds",) if found.get("status") == "done" else ()
    if missing := [key for key in (*needed, *done) if found.get(key) is None]:
        raise KeyError(missing[0])
    if kind == "step":
        _check_step(found)
    return found


def _check_step(found: Mapping[str, Any]) -> None:
    """Check what a step, or a group of one, says beside its types."""
    if not 0 < found.get("steps", 1) <= found["step"] + 1 < LAST:
        raise ValueError(f"it has no step {found['step']}")
    resolution(found["resolution"])
    for value in as_object(found.get("losses", {})).values():
        float(0 if value is None else as_number(value))
    for key in ("learning_rate", "grad_norm"):
        float(found.get(key) or 0)
    for group in found.get("groups", []):
        event({"event": "step"} | as_object(group))


resolution = lru_cache(maxsize=256)(Resolution.parse)
"""Return the resolution of a step."""
