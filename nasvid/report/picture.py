"""A picture of an architecture: inline SVG, drawn from its choices alone.

A space with choices named `down.LEVEL...` and `up.LEVEL...` is drawn as a U, any other as rows.
"""

from __future__ import annotations

import xml.etree.ElementTree as ET
from collections.abc import Mapping
from dataclasses import dataclass

from nasvid.architecture import Choice, Option
from nasvid.report.canvas import CELL, PITCH, Canvas, Style, is_switch

LINE = 17
"""Height of a row."""

GAP = 9
"""Between two levels."""

INDENT = 14
"""How far each level of a U is further in than the one above."""

CENTRE = 84
"""Length of the bars between the two sides of a U, at its lowest level."""

MIDDLE = ("mid", "middle", "bottleneck")


@dataclass(frozen=True, slots=True)
class U:
    """The groups of a UNet by where they are drawn.

    down, up: level -> groups from the top of the picture to its bottom.
    levels: level -> bars that belong to all of it. rest: whatever fits nowhere else.
    """

    down: dict[int, list[str]]
    up: dict[int, list[str]]
    middle: list[str]
    levels: dict[int, list[Choice]]
    rest: list[str]


def picture(arch: Mapping[str, Option], style: Style) -> str:
    """Return an architecture as an `<svg>` element; colours are the page's CSS classes."""
    canvas = Canvas(arch, style)
    width, height = _place(canvas)
    on = sum(option is True for option in arch.values())
    switches = sum(isinstance(option, bool) for option in arch.values())
    canvas.root.attrib |= {
        "viewBox": f"0 0 {width:g} {height:g}",
        "class": "picture",
        "role": "img",
        "aria-label": f"architecture with {on} of {switches} on/off choices on",
    }
    return ET.tostring(canvas.root, encoding="unicode")


def _place(canvas: Canvas) -> tuple[float, float]:
    """Draw an architecture onto its canvas; return the width and height taken."""
    shape = _as_u(canvas)
    if shape is None:
        return _rows(canvas, list(canvas.style.groups), 0)
    width, height = _draw_u(canvas, shape)
    if not shape.rest:
        return width, height
    more, height = _rows(canvas, shape.rest, height + GAP)
    return max(width, more), height


def _rows(canvas: Canvas, groups: list[str], y: float) -> tuple[float, float]:
    """Draw groups as labelled rows from `y` down."""
    indent = 5.4 * max(len(_label(name)) for name in groups) + 8
    for name in groups:
        canvas.text(_label(name), 0, y + CELL - 2)
        canvas.group(name, indent, y)
        y += LINE
    return indent + canvas.style.strip(groups), y


def _label(group: str) -> str:
    return group or "whole"


def _as_u(canvas: Canvas) -> U | None:
    """Sort the groups of a UNet, or return None where the names are not those of one."""
    shape = U({}, {}, [], {}, [])
    for name, choices in canvas.style.groups.items():
        side, *path = name.split(".")
        level = int(path[0]) if path and path[0].isdigit() else None
        if side == "down" and level is not None:
            shape.down.setdefault(level, []).append(name)
        elif side == "up" and level is not None:
            shape.up.setdefault(level, []).insert(0, name)  # the last block is the highest
        elif side == "level" and level is not None and not any(map(is_switch, choices)):
            shape.levels.setdefault(level, []).extend(choices)
        elif side in MIDDLE:
            shape.middle.append(name)
        else:
            shape.rest.append(name)
    return shape if shape.down and shape.up else None


def _draw_u(canvas: Canvas, shape: U) -> tuple[float, float]:
    levels = sorted({*shape.down, *shape.up, *shape.levels})
    sides = (shape.down, shape.up)
    strip = canvas.style.strip(name for side in sides for level in side.values() for name in level)
    width = 2 * (strip + INDENT * (len(levels) - 1)) + CENTRE + 2 * PITCH
    y, lowest = 0.0, (0.0, 0.0)
    for depth, level in enumerate(levels):
        left, right = INDENT * depth, width - INDENT * depth - strip
        bars = shape.levels.get(level, [])
        height = LINE * max(len(bars), *(len(side.get(level, [])) for side in sides))
        for x, side in zip((left, right), sides, strict=True):
            for row, name in enumerate(side.get(level, [])):
                canvas.group(name, x, y + row * LINE)
        middle = y + (height - LINE + CELL) / 2
        span = (left + strip + PITCH / 2, right - PITCH)
        _level(canvas, bars, span, middle)
        y, lowest = y + height + GAP, (left + strip / 2, y + height - LINE + CELL)
    return width, _draw_middle(canvas, shape.middle, lowest, width, y)


def _level(canvas: Canvas, bars: list[Choice], span: tuple[float, float], y: float) -> None:
    """Draw what belongs to a level between its two sides: the skip, and its bars on top."""
    start, stop = span
    if not bars:
        canvas.line([(start, y), (stop, y)], "skip")
    for row, choice in enumerate(bars):
        at = y + (row - (len(bars) - 1) / 2) * LINE
        canvas.bar(choice, start, at - 2, stop - start)
        leaf = choice.name.rpartition(".")[2]
        label = f"{leaf} {canvas.arch[choice.name]}"
        canvas.text(label, (start + stop) / 2, at - 5, anchor="middle")


def _draw_middle(
    canvas: Canvas, groups: list[str], lowest: tuple[float, float], width: float, y: float
) -> float:
    """Draw the bottom of the U and the line that leads through it; return the height."""
    if not groups:
        return y - GAP
    strip = canvas.style.strip(groups)
    x, top = lowest
    start = (width - strip) / 2
    for row, name in enumerate(groups):
        canvas.group(name, start, y + row * LINE)
    level = y + CELL / 2
    canvas.line([(x, top + 4), (x, level), (start - 5, level)], "flow")
    canvas.line([(start + strip + 4, level), (width - x, level), (width - x, top + 4)], "flow")
    return y + LINE * len(groups)
