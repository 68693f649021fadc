"""A picture of an architecture: inline SVG, arranged by its space's layout.

Parts with a side are drawn as a U, the others as rows below it.
"""

from __future__ import annotations

import xml.etree.ElementTree as ET
from collections.abc import Mapping
from dataclasses import dataclass

from nasvid.architecture import Choice, Option
from nasvid.layout import Layout, Part
from nasvid.report.canvas import CELL, PAD, Canvas, Style, in_words

LINE = 17
"""Height of a row."""

GAP = 9
"""Gap between the boxes of two levels."""

INDENT = 14
"""Indentation of each level of a U relative to the one above."""

LABEL = 4
"""Height of the highest level's bar label above its box."""

NARROWEST = 300
"""Minimum width of a picture, so that a small space's is not blown up."""

CENTRE = 74
"""Gap between the boxes of the lowest level."""

LETTER = 5.4
"""Approximate width of a letter."""


@dataclass(frozen=True, slots=True)
class U:
    """The parts of a UNet by where they are drawn.

    down, up: level -> parts from the top of the picture to its bottom.
    across: level -> parts whose bars belong to both sides. rows: parts without a place in a U.
    """

    down: dict[int, list[Part]]
    up: dict[int, list[Part]]
    middle: list[Part]
    across: dict[int, list[Part]]
    rows: list[Part]

    @classmethod
    def of(cls, layout: Layout) -> U:
        """Sort the parts of a layout."""
        shape = cls({}, {}, [], {}, [])
        for part in layout.parts:
            if part.side == "middle":
                shape.middle.append(part)
            elif part.level is None:
                shape.rows.append(part)
            elif part.side == "up":
                shape.up.setdefault(part.level, []).insert(0, part)  # the last block is the highest
            else:
                side = shape.down if part.side == "down" else shape.across
                side.setdefault(part.level, []).append(part)
        return shape

    @property
    def levels(self) -> list[int]:
        """The levels, from the highest."""
        return sorted({*self.down, *self.up, *self.across})


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
    shape = U.of(canvas.style.layout)
    width = height = 0.0
    if shape.levels:
        width, height = _draw_u(canvas, shape)
    rows = [*shape.rows, *(shape.middle if not shape.levels else ())]
    if rows:
        more, height = _rows(canvas, rows, height + GAP if shape.levels else 0)
        width = max(width, more)
    return width, height


def _rows(canvas: Canvas, parts: list[Part], y: float) -> tuple[float, float]:
    """Draw parts as labelled rows from `y` down; a part with one bar shows its option as text."""
    indent = LETTER * max(len(part.name) for part in parts) + 8
    strip = canvas.style.strip(parts)
    widest = 0.0
    for part in parts:
        canvas.text(part.name, 0, y + CELL - 2)
        canvas.part(part, indent, y)
        bars = canvas.style.bars(part)
        if len(bars) == 1:
            text = f"{part.labels[bars[0].name]} {canvas.arch[bars[0].name]}".strip()
            canvas.text(text, indent + strip + 6, y + CELL - 2)
            widest = max(widest, LETTER * len(text) + 6)
        y += LINE
    return indent + strip + widest, y


def _draw_u(canvas: Canvas, shape: U) -> tuple[float, float]:
    levels, sides = shape.levels, (shape.down, shape.up)
    blocks = [part for side in sides for level in side.values() for part in level]
    strip = canvas.style.strip(blocks) if blocks else 0.0
    width = 2 * (strip + INDENT * (len(levels) - 1) + 2 * PAD) + CENTRE
    top = float(PAD + LABEL)
    lowest = (0.0, 0.0)
    for depth, level in enumerate(levels):
        left, right = PAD + INDENT * depth, width - PAD - INDENT * depth - strip
        bars = _bars(canvas, shape.across.get(level, []))
        rows = max(len(bars), 1, *(len(side.get(level, [])) for side in sides))
        height = rows * LINE - LINE + CELL
        for x, side in zip((left, right), sides, strict=True):
            _stage(canvas, side.get(level, []), x, top, strip, height)
        _level(canvas, bars, (left + strip + PAD, right - PAD), top + height / 2)
        if blocks and depth < len(levels) - 1:
            for x in (left + INDENT + strip / 2, right - INDENT + strip / 2):
                canvas.line((x, top + height + PAD), (x, top + height + PAD + GAP))
        lowest = (left + strip / 2, top + height + PAD)
        top += height + 2 * PAD + GAP
    return width, _draw_middle(canvas, shape.middle, lowest, width, top)


def _stage(
    canvas: Canvas, parts: list[Part], x: float, y: float, width: float, height: float
) -> None:
    """Draw one side of a level: its blocks, one a row."""
    if parts:
        canvas.box(x, y, width, height)
    for row, part in enumerate(parts):
        canvas.part(part, x, y + row * LINE)


def _bars(canvas: Canvas, parts: list[Part]) -> list[tuple[str, Choice]]:
    """Return the choices of parts with their labels."""
    labelled = [(label, name) for part in parts for name, label in part.labels.items()]
    return [(label, canvas.style.choices[name]) for label, name in labelled]


def _level(
    canvas: Canvas, bars: list[tuple[str, Choice]], span: tuple[float, float], y: float
) -> None:
    """Draw what joins a level's two sides: the skip, and bars for the choices that they share."""
    start, stop = span
    if not bars:
        canvas.line((start, y), (stop, y))
    for row, (label, choice) in enumerate(bars):
        at = y + (row - (len(bars) - 1) / 2) * LINE
        canvas.bar(choice, start + 4, at - 2, stop - start - 8)
        canvas.text(
            f"{label} {in_words(canvas.arch[choice.name])}",
            (start + stop) / 2,
            at - 6,
            anchor="middle",
        )


def _draw_middle(
    canvas: Canvas, parts: list[Part], lowest: tuple[float, float], width: float, y: float
) -> float:
    """Draw the bottom of the U and the line through it; return the height."""
    if not parts:
        return y - PAD - GAP
    strip, height = canvas.style.strip(parts), len(parts) * LINE - LINE + CELL
    x, top = lowest
    start, level = (width - strip) / 2, y + height / 2
    _stage(canvas, parts, start, y, strip, height)
    canvas.line((x, top), (x, level), (start - PAD, level))
    canvas.line((start + strip + PAD, level), (width - x, level), (width - x, top))
    return y + height + PAD
