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
    assert metric_value("peak_memory@64", 874_505) == "875 kB"


def ends(folder: Path) -> list[dict[str, float]]:
    """Return the metrics of the first member and of the last."""
    front = json.loads((folder / "search" / "front.json").read_text())
    return [front["members"][place]["metrics"] for place in (0, -1)]


def test_the_headline_is_what_the_numbers_say(finished_run: Path) -> None:
    small, large = ends(finished_run)
    difference = small["loss@32"] / large["loss@32"] - 1
    text = headline(collect(finished_run))
    assert text.startswith(f"4 subnets with {quantity(small['params'])} to ")
    assert f"needs {small['macs@32'] / large['macs@32']:.0%} of the largest's MACs" in text
    both = f"{small['loss@32']:.4f} against {large['loss@32']:.4f}"
    assert f"its validation loss is {difference:.1%} higher ({both}; lower is better)" in text


def test_the_headline_speaks_of_what_was_searched_for(make_run) -> None:
    folder = make_run(steps=60, objectives=("temporal_consistency", "macs"))
    small, large = ends(folder)
    text = headline(collect(folder))
    difference = 1 - small["temporal_consistency@32"] / large["temporal_consistency@32"]
    assert f"its temporal consistency is {difference:.1%} lower (" in text
    assert "; higher is better)" in text
    assert "loss" not in text


def test_without_quality_the_headline_is_of_cost(make_run) -> None:
    text = headline(collect(make_run(steps=60, objectives=("macs", "params"))))
    assert text.endswith("of the largest's MACs.")


def test_where_one_is_not_positive_no_percentage_is_made_up(make_run) -> None:
    folder = make_run(steps=60, objectives=("temporal_consistency", "macs"))
    path = folder / "search" / "front.json"
    front = json.loads(path.read_text())
    front["members"][0]["metrics"]["temporal_consistency@32"] = -0.25
    path.write_text(json.dumps(front))
    assert "its temporal consistency is lower (-0.2500 against 0." in headline(collect(folder))


def test_the_headline_says_how_far_an_unfinished_run_is(make_run) -> None:
    folder = make_run(steps=60)
    (folder / "search" / "front.json").unlink()
    assert "the search is not finished" in headline(collect(folder))
    (folder / "search" / "record.jsonl").unlink()
    assert "trained for 60 steps" in headline(collect(folder))
    (folder / "events.jsonl").unlink()
    assert headline(collect(folder)) == "Nothing has been trained yet."
