"""The page about the code, and its picture, say what is there."""

import re
from pathlib import Path

from tools.floors import PICTURE, draw, floors

ROOT = Path(__file__).parents[1]
PAGE = ROOT / "docs" / "architecture.md"


def test_the_picture_is_that_of_the_contract() -> None:
    assert PICTURE.read_text() == draw(floors()), "run `make docs`"


def test_every_room_is_on_a_floor_and_on_the_page() -> None:
    package = ROOT / "nasvid"
    rooms = {path.parent.name for path in package.glob("*/__init__.py")}
    nouns = {path.stem for path in package.glob("*.py") if not path.stem.startswith("__")}
    assert {room for floor in floors() for room in floor} == rooms | nouns
    described = set(re.findall(r"`(\w+)/`", PAGE.read_text()))
    assert rooms <= described


def test_every_file_that_the_page_links_to_is_there() -> None:
    links = re.findall(r"\]\(([^)#]+)\)", PAGE.read_text())
    assert len(links) > 8
    assert [link for link in links if not (PAGE.parent / link).exists()] == []
