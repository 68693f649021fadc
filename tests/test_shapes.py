"""A resolution: how it is written, read and ordered."""

import json

import pytest
from pydantic import BaseModel

from nasvid.recipe.constraint import Constraint
from nasvid.shapes import LONGEST, WIDEST, Resolution

WRITTEN = {
    64: Resolution(64, 64),
    "480x832": Resolution(480, 832),
    "480x832x81": Resolution(480, 832, 81),
    "64x64x1": Resolution(64, 64, 1),
    f"{WIDEST}x1x{LONGEST}": Resolution(WIDEST, 1, LONGEST),
}


@pytest.mark.parametrize("text", WRITTEN)
def test_what_is_written_is_read_back(text: int | str) -> None:
    resolution = Resolution.parse(text)
    assert resolution == WRITTEN[text]
    assert resolution.to_json() == text
    assert str(resolution) == str(text)
    assert Resolution.parse(str(text)) == Resolution.parse(resolution) == resolution


WORDS = ["a", "0", "-64", "064", "64x", "x64", "64x0", "64x64x0", "1x2x3x4", "64X64", "64.0"]
ODD = ["", "6 4", "480:832", "4x1٤", "1e2", 0, -64, 64.0, True, None, [64]]
LARGE = (WIDEST + 1, f"1x1x{LONGEST + 1}", "9" * 5000)


@pytest.mark.parametrize("given", [*WORDS, *ODD, *LARGE])
def test_anything_else_is_refused(given: object) -> None:
    with pytest.raises(ValueError, match=r"is not a resolution; write 64|is too large: at most"):
        Resolution.parse(given)


def test_they_are_ordered_by_a_frames_pixels_then_by_frames() -> None:
    texts = [64, "480x832x1", "480x832x81", "480x832", "832x480", 1024]
    order = [Resolution.parse(text) for text in texts]
    assert sorted([order[i] for i in (3, 5, 0, 2, 4, 1)]) == order
    assert min(order) == order[0]
    assert [each.label for each in order[:3]] == ["64 px", "480x832x1", "480x832x81"]
    assert order[3].label == "480x832 px"


def test_it_is_a_key_of_stored_values() -> None:
    class Stored(BaseModel):
        by: dict[Resolution, int]

    stored = Stored(by={Resolution(64, 64): 1, Resolution(8, 16, 2): 2})
    text = stored.model_dump_json()
    assert json.loads(text) == {"by": {"64": 1, "8x16x2": 2}}
    assert Stored.model_validate_json(text) == stored


def test_a_constraint_may_name_one() -> None:
    assert Constraint.parse("loss@480x832x81 < 0.2").metric == "loss@480x832x81"
