"""What a picture of an architecture is drawn with: cells for on/off choices, bars for others.

The word before a name's first underscore gives a cell's colour, the one after the last its shape
(`temporal_attention`: colour of temporal, shape of attention), so that a kind looks the same
everywhere. Colours are CSS classes of the page.
"""

from __future__ import annotations

import xml.etree.ElementTree as ET
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from nasvid.architecture import Choice, Option

CELL = 11
PITCH = 15
BAR = 22
PAD = 6
"""Sizes, in units of the picture: a cell, cell to cell, a block's bar, inside a box's edge."""

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

    kinds: leaf name of the on/off choices -> how it is drawn, in the order of a block's cells.
    groups: what comes before a choice's last dot -> its choices.
    """

    kinds: Mapping[str, Kind]
    groups: Mapping[str, tuple[Choice, ...]]

    @classmethod
    def of(cls, choices: Sequence[Choice]) -> Style:
        """Decide how the architectures of a space with these choices are drawn."""
        groups: dict[str, list[Choice]] = {}
        for choice in choices:
            groups.setdefault(_group(choice.name), []).append(choice)
        leaves = _merged(
            [_leaf(c.name) for c in group if is_switch(c)] for group in groups.values()
        )
        first = list(dict.fromkeys(leaf.split("_")[0] for leaf in leaves))
        last = list(dict.fromkeys(leaf.split("_")[-1] for leaf in leaves))
        kinds = {
            leaf: Kind(
                leaf.replace("_", " "),
                first.index(leaf.split("_")[0]) % COLOURS,
                SHAPES[last.index(leaf.split("_")[-1]) % len(SHAPES)],
            )
            for leaf in leaves
        }
        return cls(kinds, {group: tuple(members) for group, members in groups.items()})

    def strip(self, groups: Iterable[str]) -> float:
        """Return the width that the cells and bars of the widest of these groups take."""
        bars = [sum(not is_switch(choice) for choice in self.groups[name]) for name in groups]
        return len(self.kinds) * PITCH + max(bars, default=0) * (BAR + 4) - 2


def _merged(orders: Iterable[Sequence[str]]) -> list[str]:
    """Return all names in one order; a new one comes before what follows it in its own."""
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


def legend_cell(kind: Kind, *, on: bool) -> str:
    """Return a cell on its own, for the legend."""
    root = ET.Element("svg", {"viewBox": f"0 0 {CELL + 2} {CELL + 2}", "class": "key"})
    _cell(root, 1, 1, kind, on=on, title=kind.name)
    return ET.tostring(root, encoding="unicode")


class Canvas:
    """An SVG being drawn for one architecture."""

    def __init__(self, arch: Mapping[str, Option], style: Style) -> None:
        self.arch, self.style = arch, style
        self.root = ET.Element("svg")

    def group(self, name: str, x: float, y: float) -> None:
        """Draw a group's cells in one row, each kind at its own place, then its bars."""
        columns = list(self.style.kinds)
        bars = 0
        for choice in self.style.groups[name]:
            if is_switch(choice):
                at = x + columns.index(_leaf(choice.name)) * PITCH
                kind = self.style.kinds[_leaf(choice.name)]
                on = self.arch[choice.name] is True
                title = f"{choice.name}: {'on' if on else 'off'}"
                _cell(self.root, at, y, kind, on=on, title=title)
            else:
                start = x + len(columns) * PITCH + bars * (BAR + 4)
                self.bar(choice, start, y + CELL / 2 - 2, BAR)
                bars += 1

    def bar(self, choice: Choice, x: float, y: float, length: float) -> None:
        """Draw a choice as a track of `length` filled to its option's fraction of the dearest."""
        option = self.arch[choice.name]
        idle = choice.requires is not None and self.arch[choice.requires] is False
        part = 0.0 if idle else fraction(choice, option)
        title = f"{choice.name}: {'not used' if idle else option}"
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
        """Draw what holds blocks together; `width` and `height` are of its content."""
        place = {"x": f"{x - PAD:g}", "y": f"{y - PAD:g}", "rx": "6", "class": "stage"}
        size = {"width": f"{width + 2 * PAD:g}", "height": f"{height + 2 * PAD:g}"}
        ET.SubElement(self.root, "rect", place | size)


def fraction(choice: Choice, option: Option) -> float:
    """Return how large an option is beside the dearest: by value, or by place if it has none."""
    top = choice.options[-1]
    if _is_number(option) and _is_number(top) and 0 <= float(option) <= float(top) != 0:
        return float(option) / float(top)
    return (choice.index(option) + 1) / len(choice.options)


def _is_number(option: Option) -> bool:
    return isinstance(option, int | float) and not isinstance(option, bool)


def _group(name: str) -> str:
    return name.rpartition(".")[0]


def _leaf(name: str) -> str:
    return name.rpartition(".")[2]


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
