import json
from pathlib import Path

import pytest

from nasvid.report.collect import collect
from nasvid.report.words import duration, headline, metric_value, quantity, tick


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (0, "0.00"),
        (131_072, "131k"),
        (1_234_567, "1.23M"),
        (999_600, "1.00M"),
        (2e9, "2.00G"),
        (4.19e12, "4.19T"),
        (37, "37.0"),
    ],
)
def test_quantities_have_three_digits_and_a_prefix(value: float, text: str) -> None:
    assert quantity(value) == text


def test_round_values_on_an_axis_are_bare() -> None:
    assert [tick(value) for value in (0.05, 1, 500, 2000, 5e9)] == ["0.05", "1", "500", "2k", "5G"]


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0.04, "0.0 s"),
        (9.97, "10 s"),
        (59.7, "1 min 0 s"),
        (372, "6 min 12 s"),
        (11_100, "3 h 5 min"),
    ],
)
def test_durations(seconds: float, text: str) -> None:
    assert duration(seconds) == text


def test_a_metric_is_shown_by_its_kind() -> None:
    assert metric_value("macs@64", 3.3e9) == "3.30G"
    assert metric_value("loss@64", 0.06514) == "0.0651"
    assert metric_value("latency_ms@64", 1026.4) == "1026"


def test_the_headline_is_what_the_numbers_say(finished_run: Path) -> None:
    front = json.loads((finished_run / "search" / "front.json").read_text())
    cheap, dear = (front["members"][place]["metrics"] for place in (0, -1))
    text = headline(collect(finished_run))
    assert text.startswith(f"4 subnets from {quantity(cheap['params'])} to ")
    assert f"needs {cheap['macs@32'] / dear['macs@32']:.0%} of the dearest's MACs" in text
    assert f"{cheap['loss@32'] / dear['loss@32'] - 1:.1%} higher" in text
    assert f"({cheap['loss@32']:.4f} against {dear['loss@32']:.4f})" in text


def test_the_headline_says_how_far_an_unfinished_run_is(make_run) -> None:
    folder = make_run(steps=60)
    (folder / "search" / "front.json").unlink()
    assert "the search has not ended yet" in headline(collect(folder))
    (folder / "search" / "record.jsonl").unlink()
    assert "trained for 60 steps" in headline(collect(folder))
    (folder / "events.jsonl").unlink()
    assert headline(collect(folder)) == "Nothing has been trained yet."
