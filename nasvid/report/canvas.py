"""The elements of an architecture's picture: cells for on/off choices, bars for others.

The first word of a label determines a cell's colour, the last its shape (temporal attention: the
colour of temporal, the shape of attention), so a kind looks the same everywhere. A number at a
label's end only tells cells of one kind apart (block 0, block 1). Colours are the page's CSS
classes.
"""

from __future__ import annotations

import xml.etree.ElementTree as ET
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from nasvid.architecture import Choice, Option
from nasvid.layout import Layout, Part

CELL = 11
PITCH = 15
BAR = 22
PAD = 6
"""Sizes, in units of the picture: a cell, the cell pitch, a block's bar, the padding of a box."""

SHAPES = ("square", "circle", "diamond")
COLOURS = 6


@dataclass(frozen=True, slots=True)
class Kind:
    """How one kind of on/off choice is drawn: `colour` in [0, 6), `shape` of `SHAPES`."""

    name: str
    colour: int
    shape: str


@dataclass(frozen=True, slots=True)
class Style:
    """How a space is drawn, the same for all its architectures.

    kinds: label of the on/off choices -> how it is drawn, in the order of a part's cells.
    choices: by name.
    """

    kinds: Mapping[str, Kind]
    choices: Mapping[str, Choice]
    layout: Layout

    @classmethod
    def of(cls, choices: Sequence[Choice], layout: Layout) -> Style:
        """Decide how the architectures of a space are drawn."""
        known = {choice.name: choice for choice in choices}
        labels = _merged(
            [label for name, label in part.labels.items() if is_switch(known[name])]
            for part in layout.parts
        )
        first = list(dict.fromkeys(_ends(label)[0] for label in labels))
        last = list(dict.fromkeys(_ends(label)[1] for label in labels))
        kinds = {
            label: Kind(
                label,
                first.index(_ends(label)[0]) % COLOURS,
                SHAPES[last.index(_ends(label)[1]) % len(SHAPES)],
            )
            for label in labels
        }
        return cls(kinds, known, layout)

    def bars(self, part: Part) -> list[Choice]:
        """Return the choices of a part that are not on/off."""
        choices = [self.choices[name] for name in part.labels]
        return [choice for choice in choices if not is_switch(choice)]

    def strip(self, parts: Iterable[Part]) -> float:
        """Return the width that the cells and bars of the widest of these parts take."""
        bars = max((len(self.bars(part)) for part in parts), default=0)
        return len(self.kinds) * PITCH + bars * (BAR + 4) - 2


def _ends(label: str) -> tuple[str, str]:
    """Return the first and last word of a label's kind."""
    words = kind_of(label).split(" ")
    return words[0], words[-1]


def kind_of(label: str) -> str:
    """Return a label without the number at its end."""
    name, _, number = label.rpartition(" ")
    return name if name and number.isdigit() else label


def _merged(orders: Iterable[Sequence[str]]) -> list[str]:
    """Merge the orders: each name is inserted before the names that follow it in its own order."""
    merged: list[str] = []
    for order in orders:
        for place, name in enumerate(order):
            if name not in merged:
                later = [merged.index(other) for other in order[place + 1 :] if other in merged]
                merged.insert(min(later, default=len(merged)), name)
    return merged


def is_switch(choice: Choice) -> bool:
    """Whether a choice is on/off."""
    return choice.options == (False, True)


def in_words(option: Option) -> str:
    """Return an option in readable form."""
    if isinstance(option, bool):
        return "on" if option else "off"
    return str(option)


def legend_cell(kind: Kind, *, on: bool) -> str:
    """Return a single cell, for the legend."""
    root = ET.Element("svg", {"viewBox": f"0 0 {CELL + 2} {CELL + 2}", "class": "key"})
    _cell(root, 1, 1, kind, on=on, title=kind.name)
    return ET.tostring(root, encoding="unicode")


class Canvas:
    """An SVG being drawn for one architecture."""

    def __init__(self, arch: Mapping[str, Option], style: Style) -> None:
        self.arch, self.style = arch, style
        self.root = ET.Element("svg")

    def part(self, part: Part, x: float, y: float) -> None:
        """Draw a part's cells in one row, each kind in its own column, then its bars."""
        columns = list(self.style.kinds)
        bars = 0
        for name, label in part.labels.items():
            choice = self.style.choices[name]
            if is_switch(choice):
                at = x + columns.index(label) * PITCH
                kind = self.style.kinds[label]
                on = self.arch[choice.name] is True
                title = f"{choice.name}: {in_words(self.arch[choice.name])}"
                _cell(self.root, at, y, kind, on=on, title=title)
            else:
                start = x + len(columns) * PITCH + bars * (BAR + 4)
                self.bar(choice, start, y + CELL / 2 - 2, BAR)
                bars += 1

    def bar(self, choice: Choice, x: float, y: float, length: float) -> None:
        """Draw a choice as a track of `length`, filled to its option's fraction of the largest."""
        option = self.arch[choice.name]
        idle = choice.requires is not None and self.arch[choice.requires] is False
        part = 0.0 if idle else fraction(choice, option)
        title = f"{choice.name}: {'not used' if idle else in_words(option)}"
        holder = ET.SubElement(self.root, "g")
        ET.SubElement(holder, "title").text = title
        for name, width in (("track", length), ("level", length * part)):
            box = {"x": f"{x:g}", "y": f"{y:g}", "width": f"{width:.1f}", "height": "4"}
            ET.SubElement(holder, "rect", box | {"rx": "2", "class": name})

    def text(self, content: str, x: float, y: float, *, anchor: str = "start") -> None:
        """Write a small label; `y` is its baseline."""
        place = {"x": f"{x:g}", "y": f"{y:g}", "text-anchor": anchor}
        ET.SubElement(self.root, "text", place).text = content

    def line(self, *points: tuple[float, float]) -> None:
        """Draw a line through points."""
        text = " ".join(f"{x:g},{y:g}" for x, y in points)
        ET.SubElement(self.root, "polyline", {"points": text})

    def box(self, x: float, y: float, width: float, height: float) -> None:
        """Draw a box around blocks; `width` and `height` are those of its content."""
        place = {"x": f"{x - PAD:g}", "y": f"{y - PAD:g}", "rx": "6", "class": "stage"}
        size = {"width": f"{width + 2 * PAD:g}", "height": f"{height + 2 * PAD:g}"}
        ET.SubElement(self.root, "rect", place | size)


def fraction(choice: Choice, option: Option) -> float:
    """Return an option as a fraction of the largest: by value, or by index if not a number."""
    if is_switch(choice):
        return float(option is True)
    top = choice.options[-1]
    if _is_number(option) and _is_number(top) and 0 <= float(option) <= float(top) != 0:
        return float(option) / float(top)
    return (choice.index(option) + 1) / len(choice.options)


def _is_number(option: Option) -> bool:
    return isinstance(option, int | float) and not isinstance(option, bool)


def _cell(root: ET.Element, x: float, y: float, kind: Kind, *, on: bool, title: str) -> None:
    marks = {"class": f"cell {'on' if on else 'off'} k{kind.colour}"}
    middle = (x + CELL / 2, y + CELL / 2)
    if kind.shape == "circle":
        place = {"cx": f"{middle[0]:g}", "cy": f"{middle[1]:g}", "r": f"{CELL / 2 - 0.5:g}"}
        cell = ET.SubElement(root, "circle", place | marks)
    else:
        inset = 1 if kind.shape == "square" else 2
        side = f"{CELL - 2 * inset + 1:g}"
        place = {"x": f"{x + inset - 0.5:g}", "y": f"{y + inset - 0.5:g}"}
        place |= {"width": side, "height": side, "rx": "2"}
        if kind.shape == "diamond":
            place["transform"] = f"rotate(45 {middle[0]:g} {middle[1]:g})"
        cell = ET.SubElement(root, "rect", place | marks)
    ET.SubElement(cell, "title").text = title
