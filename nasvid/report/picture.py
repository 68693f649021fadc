"""A picture of an architecture: inline SVG, drawn from its choices alone.

A space with choices named `down.LEVEL...` and `up.LEVEL...` is drawn as a U, any other as rows.
"""

from __future__ import annotations

import xml.etree.ElementTree as ET
from collections.abc import Mapping
from dataclasses import dataclass

from nasvid.architecture import Choice, Option
from nasvid.report.canvas import CELL, PAD, Canvas, Style, is_switch

LINE = 17
"""Height of a row."""

GAP = 9
"""Between the boxes of two levels."""

INDENT = 14
"""How far each level of a U is further in than the one above."""

LABEL = 4
"""What the label of the highest level's bar stands out above its box."""

NARROWEST = 300
"""Width of a picture at least, so that a small space's is not blown up."""

CENTRE = 74
"""Between the boxes of the lowest level."""

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
    width = max(width, NARROWEST)
    on = sum(option is True for option in arch.values())
    switches = sum(isinstance(option, bool) for option in arch.values())
    canvas.root.attrib |= {
        "viewBox": f"-1 -1 {width + 2:g} {height + 2:g}",
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
    width = 2 * (strip + INDENT * (len(levels) - 1) + 2 * PAD) + CENTRE
    top = float(PAD + LABEL)
    lowest = (0.0, 0.0)
    for depth, level in enumerate(levels):
        left, right = PAD + INDENT * depth, width - PAD - INDENT * depth - strip
        bars = shape.levels.get(level, [])
        rows = max(len(bars), *(len(side.get(level, [])) for side in sides))
        height = rows * LINE - LINE + CELL
        for x, side in zip((left, right), sides, strict=True):
            _stage(canvas, side.get(level, []), x, top, strip, height)
        _level(canvas, bars, (left + strip + PAD, right - PAD), top + height / 2)
        if depth < len(levels) - 1:
            for x in (left + INDENT + strip / 2, right - INDENT + strip / 2):
                canvas.line((x, top + height + PAD), (x, top + height + PAD + GAP))
        lowest = (left + strip / 2, top + height + PAD)
        top += height + 2 * PAD + GAP
    return width, _draw_middle(canvas, shape.middle, lowest, width, top)


def _stage(
    canvas: Canvas, groups: list[str], x: float, y: float, width: float, height: float
) -> None:
    """Draw one side of a level: its blocks, one a row."""
    canvas.box(x, y, width, height)
    for row, name in enumerate(groups):
        canvas.group(name, x, y + row * LINE)


def _level(canvas: Canvas, bars: list[Choice], span: tuple[float, float], y: float) -> None:
    """Draw what joins a level's two sides: the skip, and what both have in common as bars."""
    start, stop = span
    if not bars:
        canvas.line((start, y), (stop, y))
    for row, choice in enumerate(bars):
        at = y + (row - (len(bars) - 1) / 2) * LINE
        canvas.bar(choice, start + 4, at - 2, stop - start - 8)
        leaf = choice.name.rpartition(".")[2]
        label = f"{leaf} {canvas.arch[choice.name]}"
        canvas.text(label, (start + stop) / 2, at - 6, anchor="middle")


def _draw_middle(
    canvas: Canvas, groups: list[str], lowest: tuple[float, float], width: float, y: float
) -> float:
    """Draw the bottom of the U and the line that leads through it; return the height."""
    if not groups:
        return y - PAD - GAP
    strip, height = canvas.style.strip(groups), len(groups) * LINE - LINE + CELL
    x, top = lowest
    start, level = (width - strip) / 2, y + height / 2
    _stage(canvas, groups, start, y, strip, height)
    canvas.line((x, top), (x, level), (start - PAD, level))
    canvas.line((start + strip + PAD, level), (width - x, level), (width - x, top))
    return y + height + PAD
