"""Draws docs/media/floors.svg, the floors of the code, from the import contract.

python tools/floors.py
"""

from __future__ import annotations

import re
import tomllib
from collections.abc import Iterator, Sequence
from html import escape
from pathlib import Path

ROOT = Path(__file__).parents[1]
PICTURE = ROOT / "docs" / "media" / "floors.svg"

WIDTH, MARGIN = 760, 16
FLOOR, GAP = 38, 8
LETTER = 7.6
"""Pixels of a letter, about."""

STYLE = """
.page { fill: #fbfaf7 } .floor { fill: #efece4 } .room { fill: #ffffff; stroke: #8a8577 }
.noun { fill: #e4eef4; stroke: #5d8aa3 }
text { font: 13px ui-monospace, Menlo, Consolas, monospace; fill: #26231c; text-anchor: middle }
@media (prefers-color-scheme: dark) {
  .page { fill: #1b1a17 } .floor { fill: #262420 } .room { fill: #33302a; stroke: #7d786b }
  .noun { fill: #22333d; stroke: #5d8aa3 } text { fill: #ece8de }
}
""".strip()


def floors() -> list[list[str]]:
    """Return the rooms of each floor, the highest first, as the contract in pyproject.toml says."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    contracts = project["tool"]["importlinter"]["contracts"]
    (layers,) = (each["layers"] for each in contracts if each["type"] == "layers")
    return [re.findall(r"\w+", layer) for layer in layers if layer != "__main__"]


def draw(rows: Sequence[Sequence[str]]) -> str:
    """Return the picture: a row for each floor, a box for each room in it."""
    lines, y = [], MARGIN
    for rooms in rows:
        wrapped = list(_wrapped(rooms))
        height = FLOOR * len(wrapped)
        lines.append(_box("floor", MARGIN, y, WIDTH - 2 * MARGIN, height))
        noun = not any((ROOT / "nasvid" / room).is_dir() for room in rooms)
        for number, line in enumerate(wrapped):
            lines += _line(line, y + number * FLOOR, "noun" if noun else "room")
        y += height + GAP
    body = "\n".join(lines)
    size = f'viewBox="0 0 {WIDTH} {y + MARGIN - GAP}" role="img"'
    title = "<title>The floors of nasvid: a room imports only from floors below it</title>"
    page = f'<rect class="page" width="{WIDTH}" height="{y + MARGIN - GAP}"/>'
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" {size}>\n{title}\n'
        f"<style>{STYLE}</style>\n{page}\n{body}\n</svg>\n"
    )


def _wrapped(rooms: Sequence[str]) -> Iterator[list[str]]:
    line: list[str] = []
    for room in rooms:
        if line and sum(map(_width, [*line, room])) > WIDTH - 4 * MARGIN:
            yield line
            line = []
        line.append(room)
    yield line


def _width(room: str) -> float:
    return LETTER * len(room) + 3 * GAP


def _line(rooms: Sequence[str], y: float, kind: str) -> Iterator[str]:
    x = (WIDTH - sum(map(_width, rooms))) / 2
    for room in rooms:
        width = _width(room)
        yield _box(kind, x + GAP / 2, y + 6, width - GAP, FLOOR - 12)
        yield f'<text x="{x + width / 2:.1f}" y="{y + FLOOR / 2 + 4.5:.1f}">{escape(room)}</text>'
        x += width


def _box(kind: str, x: float, y: float, width: float, height: float) -> str:
    place = f'x="{x:.1f}" y="{y:.1f}" width="{width:.1f}" height="{height:.1f}"'
    return f'<rect class="{kind}" {place} rx="5"/>'


if __name__ == "__main__":
    PICTURE.write_text(draw(floors()))
