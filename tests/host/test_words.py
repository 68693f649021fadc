"""Counts and quantities as people read them."""

import pytest

from nasvid.host.words import after_colon, bytes_text, counted, quantity, with_unit


@pytest.mark.parametrize(
    ("number", "text"), [(0, "0 clips"), (1, "1 clip"), (2, "2 clips"), (1000, "1000 clips")]
)
def test_a_count_agrees_with_its_noun(number: int, text: str) -> None:
    assert counted(number, "clip") == text


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (0.1234, "0.123"),
        (999, "999"),
        (999.7, "1k"),
        (20_930, "20.9k"),
        (999_900, "1M"),
        (1.6e9, "1.6G"),
        (-2.5e6, "-2.5M"),
        (3e17, "300P"),
    ],
)
def test_a_quantity_is_never_in_scientific_notation(value: float, text: str) -> None:
    assert quantity(value) == text


def test_units_billions_and_digits() -> None:
    assert quantity(1.6e9, billion="B") == "1.6B"
    assert quantity(20_931, digits=4) == "20.93k"
    assert bytes_text(999.9e6) == "1 GB"
    assert with_unit(989e12, "FLOP/s") == "989 TFLOP/s"


@pytest.mark.parametrize(
    ("message", "text"),
    [
        ("No space 'x'", "no space 'x'"),
        ("A step has 1 clip", "a step has 1 clip"),
        ("ToyNet has no such method", "ToyNet has no such method"),
        ("MACs range from 1k", "MACs range from 1k"),
        ("already so", "already so"),
        ("", ""),
    ],
)
def test_a_sentence_after_a_colon_starts_in_lower_case(message: str, text: str) -> None:
    assert after_colon(message) == text
