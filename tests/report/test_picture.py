import xml.etree.ElementTree as ET

import numpy as np
import pytest

from nasvid.architecture import Architecture, Choice
from nasvid.layout import Layout, Part
from nasvid.report.canvas import Style, kind_of
from nasvid.report.picture import picture

ROWS = [
    Choice("depth", (2, 4, 8)),
    Choice("block.0.mix", (False, True)),
    Choice("block.0.heads", (1, 2, 4), requires="block.0.mix"),
    Choice("norm", ("none", "group")),
]


def unet() -> list[Choice]:
    choices = [Choice("level.0.width", (16, 32)), Choice("level.1.width", (32, 48, 64))]
    for block in ("down.0.0", "down.0.1", "down.1.0", "middle", "up.1.0", "up.0.0", "up.0.1"):
        choices.append(Choice(f"{block}.spatial_conv", (False, True)))
        choices.append(Choice(f"{block}.temporal_attention", (False, True)))
        choices.append(Choice(f"{block}.hidden", (0.5, 1.0), f"{block}.spatial_conv"))
    return choices


def layout(choices: list[Choice]) -> Layout:
    """A U for `unet`, rows for the rest."""
    if choices != unet():
        return Layout.by_prefix(choices)
    parts = []
    for part in Layout.by_prefix(choices).parts:
        side, *path = part.name.split(".")
        side = {"level": "across"}.get(side, side)
        level = int(path[0]) if path else None
        parts.append(Part(part.name, part.labels, side, level))  # pyright: ignore[reportArgumentType]
    return Layout(tuple(parts))


def style(choices: list[Choice]) -> Style:
    return Style.of(choices, layout(choices))


def drawn(choices: list[Choice], pick) -> dict[str, ET.Element]:
    """Draw the architecture of `pick(choice)`; return the element of each choice by its name."""
    arch = Architecture({choice.name: pick(choice) for choice in choices})
    root = ET.fromstring(picture(arch, style(choices)))
    found = [(e, e.find("title")) for e in root.iter()]
    named = [((title.text or "").split(":")[0], e) for e, title in found if title is not None]
    assert len(named) == len(dict(named)), "something is drawn twice"
    return dict(named)


def place(element: ET.Element) -> tuple[float, float]:
    """Return the left top corner of what is drawn."""
    shape = element if element.tag != "g" else element[1]
    if shape.tag == "circle":
        radius = float(shape.attrib["r"])
        return float(shape.attrib["cx"]) - radius, float(shape.attrib["cy"]) - radius
    return float(shape.attrib["x"]), float(shape.attrib["y"])


@pytest.mark.parametrize("choices", [unet(), ROWS, ROWS[:1]])
def test_every_choice_is_drawn_once(choices: list[Choice]) -> None:
    parts = drawn(choices, lambda choice: choice.options[-1])
    assert set(parts) == {choice.name for choice in choices}


def test_a_cell_is_filled_when_its_choice_is_on() -> None:
    rng = np.random.default_rng(0)
    options = {c.name: c.options[int(rng.integers(len(c.options)))] for c in unet()}
    for name, part in drawn(unet(), lambda choice: options[choice.name]).items():
        if isinstance(options[name], bool):
            assert ("on" in part.attrib["class"].split()) == options[name]


def test_a_bar_is_as_long_as_its_part_of_the_largest() -> None:
    parts = drawn(unet(), lambda choice: choice.options[1 if choice.name == "level.1.width" else 0])
    track, level = parts["level.1.width"].findall("rect")
    ratio = float(level.attrib["width"]) / float(track.attrib["width"])
    assert ratio == pytest.approx(48 / 64, abs=0.01)


def test_a_choice_without_numbers_is_as_long_as_its_place() -> None:
    _, level = drawn(ROWS, lambda choice: choice.options[0])["norm"].findall("rect")
    track, full = drawn(ROWS, lambda choice: choice.options[-1])["norm"].findall("rect")
    assert float(level.attrib["width"]) == pytest.approx(float(track.attrib["width"]) / 2)
    assert full.attrib["width"] == track.attrib["width"]


def test_what_cannot_matter_is_empty() -> None:
    _, level = drawn(unet(), lambda choice: choice.options[0])["up.0.0.hidden"].findall("rect")
    assert float(level.attrib["width"]) == 0


def test_a_unet_is_drawn_as_a_u() -> None:
    parts = drawn(unet(), lambda choice: choice.options[-1])
    x = {name: place(part)[0] for name, part in parts.items()}
    y = {name: place(part)[1] for name, part in parts.items()}
    leaf = "spatial_conv"
    assert x[f"down.0.0.{leaf}"] < x[f"middle.{leaf}"] < x[f"up.0.0.{leaf}"]
    assert y[f"down.0.0.{leaf}"] < y[f"down.1.0.{leaf}"] < y[f"middle.{leaf}"]
    assert y[f"up.0.1.{leaf}"] < y[f"up.0.0.{leaf}"] < y[f"up.1.0.{leaf}"], "the decoder goes up"
    assert x[f"down.0.0.{leaf}"] < x["level.0.width"] < x[f"up.0.0.{leaf}"]
    assert y[f"down.0.0.{leaf}"] == y[f"up.0.1.{leaf}"]


@pytest.mark.parametrize("choices", [unet(), ROWS])
def test_all_is_inside_the_picture(choices: list[Choice]) -> None:
    arch = Architecture({choice.name: choice.options[-1] for choice in choices})
    root = ET.fromstring(picture(arch, style(choices)))
    left, top, width, height = map(float, root.attrib["viewBox"].split())
    for rect in root.iter("rect"):
        x, y = float(rect.attrib["x"]), float(rect.attrib["y"])
        assert left <= x <= x + float(rect.attrib["width"]) <= left + width
        assert top <= y <= y + float(rect.attrib["height"]) <= top + height


def test_a_u_without_blocks_is_its_levels() -> None:
    choices = [Choice(f"widths.{n}", (32, 64)) for n in range(3)]
    parts = tuple(Part(f"level {n}", {f"widths.{n}": "width"}, "across", n) for n in range(3))
    arch = Architecture({choice.name: 32 for choice in choices})
    root = ET.fromstring(picture(arch, Style.of(choices, Layout(parts))))
    tracks = [float(e.attrib["width"]) for e in root.iter("rect") if e.attrib["class"] == "track"]
    assert tracks == sorted(tracks, reverse=True)
    assert len(set(tracks)) == 3
    assert [e.text for e in root.iter("text")] == ["width 32"] * 3


def test_a_row_of_one_bar_says_what_was_chosen() -> None:
    arch = Architecture({choice.name: choice.options[0] for choice in ROWS})
    root = ET.fromstring(picture(arch, style(ROWS)))
    assert "heads 1" in [e.text for e in root.iter("text")]


def test_kinds_come_in_the_order_that_all_groups_agree_on() -> None:
    names = ("a.temporal", "a.cross", "b.spatial", "b.temporal", "c.temporal", "c.self", "c.cross")
    kinds = style([Choice(name, (False, True)) for name in names]).kinds
    assert list(kinds) == ["spatial", "temporal", "self", "cross"]


def test_kinds_look_the_same_everywhere_and_unlike_one_another() -> None:
    kinds = style(unet()).kinds
    assert list(kinds) == ["spatial conv", "temporal attention"]
    assert kinds["spatial conv"].colour != kinds["temporal attention"].colour
    assert kinds["spatial conv"].shape != kinds["temporal attention"].shape


def test_names_are_text_and_never_markup() -> None:
    hostile = Choice("<script>alert(1)</script>.x", (False, True))
    svg = picture(Architecture({hostile.name: True}), style([hostile]))
    assert "<script" not in svg
    assert "&lt;script&gt;" in svg


def test_numbered_cells_are_of_one_kind():
    names = [f"blocks.{i}" for i in range(3)]
    labels = {name: f"block {i}" for i, name in enumerate(names)}
    choices = [Choice(name, (False, True)) for name in names]
    kinds = Style.of(choices, Layout((Part("blocks", labels),))).kinds.values()
    assert {(kind_of(kind.name), kind.colour, kind.shape) for kind in kinds} == {
        ("block", 0, "square")
    }
