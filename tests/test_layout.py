import json

import pytest

from nasvid.architecture import Choice
from nasvid.layout import Layout, Part

CHOICES = [
    Choice("width", (1, 2)),
    Choice("block.0.on", (False, True)),
    Choice("block.0.h", (1, 2)),
]


def test_without_a_layout_names_are_grouped_up_to_the_last_dot() -> None:
    layout = Layout.by_prefix(CHOICES)
    assert [part.name for part in layout.parts] == ["whole", "block.0"]
    assert layout.parts[1].labels == {"block.0.on": "on", "block.0.h": "h"}
    layout.check(CHOICES)


def test_a_layout_survives_json() -> None:
    layout = Layout((Part("a", {"width": "w"}, "across", 0), Part("b", {"block.0.on": "on"})))
    assert Layout.from_json(json.loads(json.dumps(layout.to_json()))) == layout


@pytest.mark.parametrize(
    ("parts", "name"),
    [
        ([Part("a", {"width": "w"})], "'block.0.on'"),
        ([*Layout.by_prefix(CHOICES).parts, Part("b", {"width": "w"})], "'width'"),
        ([*Layout.by_prefix(CHOICES).parts, Part("b", {"depth": "w"})], "'depth' is not a choice"),
    ],
)
def test_each_choice_is_in_one_part(parts: list[Part], name: str) -> None:
    with pytest.raises(ValueError, match=name):
        Layout(tuple(parts)).check(CHOICES)


def test_a_level_goes_with_a_side() -> None:
    with pytest.raises(ValueError, match="Part 'a' has side down and level None"):
        Part("a", {}, "down")
    with pytest.raises(ValueError, match="Part 'a' has side None and level 2"):
        Part("a", {}, level=2)


def test_labels_of_a_part_differ() -> None:
    with pytest.raises(ValueError, match="the same label"):
        Part("a", {"x": "on", "y": "on"})
