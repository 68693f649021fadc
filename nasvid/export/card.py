"""The model card of an exported model: what it is, its metrics and how to load it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from nasvid.architecture import Option
from nasvid.shapes import Resolution

ON = ""
"""Last part of the name of a choice that switches a whole group on or off."""

HEADER = """\
---
library_name: diffusers
tags: [video, text-to-video, diffusion, nasvid]
---
"""


def model_card(content: Mapping[str, Any], what: str, usage: str) -> str:
    """Return the card as Markdown.

    content: the content of `nasvid.json`. what: the folder holds, after "A". usage: the section
    that says how it is used.
    """
    resolutions = ", ".join(map(_size, content["resolutions"]))
    return "\n".join(
        [
            HEADER,
            f"# Video diffusion model {content['id']}",
            "",
            f"A {what} that nasvid extracted from a weight-sharing supernet (neural architecture "
            "search as in "
            f"[SNED](https://arxiv.org/abs/2406.00195)). It generates clips of {content['frames']} "
            f"frames at {content['fps']:g} frames per second and {resolutions} pixels.",
            "",
            usage,
            "",
            "## Metrics",
            "",
            *metrics_table(content["metrics"]),
            "",
            "## Architecture",
            "",
            f"From the search space `{content['space']['name']}`.",
            "",
            *architecture_lines(content["arch"]),
            "",
        ]
    )


def metrics_table(metrics: Mapping[str, float]) -> list[str]:
    """Return the lines of a Markdown table: one row per metric, one column per resolution."""
    resolutions = sorted({Resolution.parse(name.split("@")[1]) for name in metrics if "@" in name})
    names = dict.fromkeys(name.split("@")[0] for name in metrics)
    rows = [
        "| metric | overall | " + "".join(f"{_size(each)} | " for each in resolutions).rstrip(),
        "| --- |" + " ---: |" * (1 + len(resolutions)),
    ]
    for name in names:
        keys = [name, *(f"{name}@{resolution}" for resolution in resolutions)]
        cells = [_number(metrics[key]) if key in metrics else "" for key in keys]
        rows.append(f"| {name} | " + " | ".join(cells) + " |")
    return rows


def architecture_lines(arch: Mapping[str, Option]) -> list[str]:
    """Return a Markdown list: one line per group of choices (the name up to its last dot)."""
    heads = {name.rpartition(".")[0] for name in arch}
    groups: dict[str, list[str]] = {}
    for name, option in arch.items():
        head, _, leaf = (name, "", ON) if name in heads else name.rpartition(".")
        groups.setdefault(head or "whole", []).append(_phrase(leaf, option))
    return [f"- `{head}`: {', '.join(phrases)}" for head, phrases in groups.items()]


def _phrase(leaf: str, option: Option) -> str:
    if leaf == ON:
        return "on" if option else "off"
    if isinstance(option, bool):
        return leaf if option else f"no {leaf}"
    return f"{leaf} {option}"


def _size(given: object) -> str:
    """Return a resolution with both its height and its width: `64x64`, `480x832x81`."""
    resolution = Resolution.parse(given)
    height, width = resolution.height, resolution.width
    return f"{height}x{width}" if resolution.is_square else str(resolution)


def _number(value: float) -> str:
    return f"{value:,.0f}" if float(value).is_integer() else f"{value:.4g}"
