"""Curves with their spread over seeds, as an SVG that reads on light and dark pages."""

from __future__ import annotations

import xml.etree.ElementTree as ET
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

COLOURS = ("#777777", "#0072b2", "#e69f00", "#d55e00", "#009e73", "#cc79a7", "#56b4e9", "#000000")
MARKS = "●▲◆■"
WIDTH, HEIGHT = 720, 380
LEFT, RIGHT, TOP, BOTTOM = 64, 230, 16, 44


@dataclass(frozen=True, slots=True)
class Curve:
    """What one method reached: `x` `(points,)`, `runs` `(seeds, points)`."""

    name: str
    x: np.ndarray
    runs: np.ndarray


@dataclass(frozen=True, slots=True)
class Dots:
    """Points of one kind, each `(x, y)`."""

    name: str
    points: Sequence[tuple[float, float]]


@dataclass(frozen=True, slots=True)
class _Axes:
    """first, last: the ends of x. low, high: those of y."""

    first: float
    last: float
    low: float
    high: float

    @classmethod
    def of(cls, curves: Sequence[Curve], start: int) -> _Axes:
        seen = np.concatenate([curve.runs[:, curve.x >= start].ravel() for curve in curves])
        last = max(int(curve.x[-1]) for curve in curves)
        return cls(start, last, float(seen.min()), float(seen.max()))

    def at(self, x: float, y: float) -> tuple[float, float]:
        across = (x - self.first) / max(self.last - self.first, 1)
        up = (y - self.low) / max(self.high - self.low, 1e-12)
        return (
            LEFT + across * (WIDTH - LEFT - RIGHT),
            HEIGHT - BOTTOM - up * (HEIGHT - TOP - BOTTOM),
        )


def draw(curves: Sequence[Curve], *, x: str, y: str, start: int = 1) -> str:
    """Return an SVG of each method's median, with a band between its quartiles.

    x, y: what the axes say. start: the first x that is drawn.
    """
    axes = _Axes.of(curves, start)
    root = _page(axes, x, y)
    ends = []
    for curve, colour in zip(curves, COLOURS, strict=False):
        kept = curve.x >= start
        low, middle, high = np.quantile(curve.runs[:, kept], [0.25, 0.5, 0.75], axis=0)
        xs = curve.x[kept]
        there, back = zip(xs, high, strict=True), zip(xs[::-1], low[::-1], strict=True)
        band = _points(axes, [*there, *back])
        ET.SubElement(root, "polygon", {"points": band, "fill": colour, "opacity": "0.15"})
        line = _points(axes, list(zip(xs, middle, strict=True)))
        style = {"fill": "none", "stroke": colour, "stroke-width": "2"}
        ET.SubElement(root, "polyline", {"points": line, **style})
        ends.append((axes.at(axes.last, middle[-1])[1], curve.name, colour))
    _names(root, ends)
    return ET.tostring(root, encoding="unicode") + "\n"


def draw_dots(kinds: Sequence[Dots], *, x: str, y: str) -> str:
    """Return an SVG of points, a colour and a shape for each kind.

    x, y: what the axes say.
    """
    xs, ys = np.array([point for dots in kinds for point in dots.points]).T
    room = 0.03 * np.ptp(xs), 0.05 * np.ptp(ys)
    axes = _Axes(xs.min() - room[0], xs.max() + room[0], ys.min() - room[1], ys.max() + room[1])
    root = _page(axes, x, y)
    for place, (dots, colour) in enumerate(zip(kinds, COLOURS[1:], strict=False)):
        name = f"{MARKS[place]} {dots.name}"
        _text(root, name, WIDTH - RIGHT + 12, TOP + 20 + 20 * place, fill=colour)
        for point in dots.points:
            across, height = axes.at(*point)
            style = {"fill": colour, "text-anchor": "middle", "font-size": "13"}
            _text(root, MARKS[place], across, height + 4.5, **style)
    return ET.tostring(root, encoding="unicode") + "\n"


def _page(axes: _Axes, x: str, y: str) -> ET.Element:
    """Return an empty picture with its axes."""
    root = ET.Element("svg", xmlns="http://www.w3.org/2000/svg", viewBox=f"0 0 {WIDTH} {HEIGHT}")
    root.set("font-family", "sans-serif")
    root.set("font-size", "12")
    ET.SubElement(root, "rect", width=str(WIDTH), height=str(HEIGHT), fill="#ffffff")
    _ticks(root, axes, x, y)
    return root


def _points(axes: _Axes, points: Sequence[tuple[float, float]]) -> str:
    return " ".join("{:.1f},{:.1f}".format(*axes.at(*point)) for point in points)


def _text(root: ET.Element, text: str, x: float, y: float, **style: str) -> None:
    place = {"x": f"{x:.1f}", "y": f"{y:.1f}", "fill": "#333333"}
    ET.SubElement(root, "text", place | style).text = text


def _ticks(root: ET.Element, axes: _Axes, x: str, y: str) -> None:
    for value in np.linspace(axes.low, axes.high, 5):
        left, height = axes.at(axes.first, value)
        place = {"x1": f"{left:.1f}", "x2": str(WIDTH - RIGHT)}
        place |= {"y1": f"{height:.1f}", "y2": f"{height:.1f}"}
        ET.SubElement(root, "line", place | {"stroke": "#dddddd"})
        _text(root, f"{value:.3f}", left - 8, height + 4, **{"text-anchor": "end"})
    for value in np.linspace(axes.first, axes.last, 5).round():
        across, bottom = axes.at(value, axes.low)
        _text(root, f"{value:.0f}", across, bottom + 18, **{"text-anchor": "middle"})
    middle = {"text-anchor": "middle"}
    _text(root, x, (LEFT + WIDTH - RIGHT) / 2, HEIGHT - 8, **middle)
    turned = {"transform": f"rotate(-90 14 {HEIGHT / 2 - 14:.0f})"}
    _text(root, y, 14, HEIGHT / 2 - 14, **middle, **turned)


def _names(root: ET.Element, ends: Sequence[tuple[float, str, str]]) -> None:
    """Write each name beside the end of its curve, no two on top of each other."""
    height = -np.inf
    for wanted, name, colour in sorted(ends):
        height = max(wanted + 4, height + 16)
        _text(root, name, WIDTH - RIGHT + 8, height, fill=colour)
