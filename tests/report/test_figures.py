import json
from pathlib import Path

import numpy as np
import pytest

from nasvid.report import plots, search_figures, training_figures
from nasvid.report.collect import RunData, collect
from nasvid.report.colours import STOPS, CostColours, ramp


@pytest.fixture(scope="module")
def run(finished_run: Path) -> RunData:
    return collect(finished_run)


def test_the_scale_goes_through_its_stops() -> None:
    places = np.linspace(0, 1, len(STOPS))
    assert tuple(ramp(place) for place in places) == STOPS
    assert ramp(-1) == STOPS[0]
    assert ramp(2) == STOPS[-1]


def test_cheapest_and_dearest_are_the_ends_of_the_scale(run: RunData) -> None:
    colours = CostColours(run)
    by_cost = sorted(run.evaluations, key=lambda entry: entry.metrics["macs"])
    assert colours(by_cost[0].metrics) == STOPS[0]
    assert colours(by_cost[-1].metrics) == STOPS[-1]


def test_the_front_is_shown_at_each_resolution(run: RunData) -> None:
    shown = search_figures.fronts(run, "macs")
    assert [figure.title for figure in shown] == ["16 px", "32 px"]
    for side, figure in zip(run.resolutions, shown, strict=True):
        dots, line, front, members = figure.plot["data"]
        assert len(dots["x"]) == len(run.evaluations)
        assert len(front["x"]) == len(run.fronts[side])
        assert list(line["x"]) == sorted(line["x"])
        assert sorted(line["y"], reverse=True) == list(line["y"])
        assert list(members["text"]) == [str(member.number) for member in run.members]
        assert f"hypervolume {run.hypervolume[side]:.4f}" in figure.note


def test_only_members_have_a_latency(run: RunData) -> None:
    for figure in search_figures.fronts(run, "latency_ms"):
        sizes = [len(trace["x"]) for trace in figure.plot["data"]]
        assert sizes == [0, 0, 0, len(run.members)]
    assert search_figures.fronts(run, "never_measured") == []


def test_a_page_stays_light_however_much_was_judged(make_run) -> None:
    run = collect(make_run(steps=60, judged=1500))
    assert len(run.evaluations) > plots.POINTS
    dots, *_ = search_figures.fronts(run, "macs")[0].plot["data"]
    assert len(dots["x"]) == plots.POINTS


def test_the_search_never_gets_worse(run: RunData) -> None:
    figure = search_figures.search_progress(run)
    assert figure is not None
    (curve,) = figure.plot["data"]
    assert list(curve["y"]) == sorted(curve["y"])
    assert curve["y"][-1] == 100
    assert curve["x"][-1] == len(run.evaluations)


def test_what_breaks_a_constraint_is_worth_nothing(make_run) -> None:
    folder = make_run(steps=60)
    record = folder / "search" / "record.jsonl"
    lines = [json.loads(line) for line in record.read_text().splitlines()]
    text = "".join(json.dumps(line | {"violation": 0.5}) + "\n" for line in lines)
    record.write_text(text)
    assert search_figures.search_progress(collect(folder)) is None


def test_training_shows_each_role_raw_and_smoothed_and_predict_the_mean(run: RunData) -> None:
    for side, figure in zip(run.resolutions, training_figures.training(run), strict=True):
        names = [(trace["name"], trace["mode"]) for trace in figure.plot["data"]]
        roles = ["largest", "largest", "random", "random", "smallest", "smallest"]
        assert names == [(role, "lines") for role in roles]
        (line,) = figure.plot["layout"]["shapes"]
        assert line["y0"] == line["y1"] == 0.6 + side / 1000


def test_smoothing_keeps_a_constant_from_the_first_value_on() -> None:
    np.testing.assert_allclose(training_figures.smoothed(np.full(500, 0.3)), 0.3)


def test_smoothing_lies_within_the_values_and_follows_them() -> None:
    values = np.linspace(1, 0, 1000)
    smooth = training_figures.smoothed(values)
    assert (np.diff(smooth) < 0).all()
    assert smooth[-1] == pytest.approx(0, abs=0.06)


def test_a_step_that_was_skipped_is_a_gap_and_not_a_zero(run: RunData) -> None:
    (bad,) = {step["step"] for step in run.steps if step["skipped"]} & {37}
    for figure in (*training_figures.training(run), *training_figures.optimizer(run)[1:]):
        assert all(bad not in trace["x"] for trace in figure.plot["data"] if trace["x"] is not None)
