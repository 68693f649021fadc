import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from nasvid.report import importance, plots, ranking, search_figures, training_figures, views
from nasvid.report.collect import RunData, collect
from nasvid.report.colours import STOPS, CostColours, ramp
from nasvid.report.goals import label
from nasvid.report.plots import Figure


@pytest.fixture(scope="module")
def run(finished_run: Path) -> RunData:
    return collect(finished_run)


def test_the_scale_goes_through_its_stops() -> None:
    places = np.linspace(0, 1, len(STOPS))
    assert tuple(ramp(place) for place in places) == STOPS
    assert ramp(-1) == STOPS[0]
    assert ramp(2) == STOPS[-1]


def test_smallest_and_largest_are_the_ends_of_the_scale(run: RunData) -> None:
    colours = CostColours(run)
    by_cost = sorted(run.evaluations, key=lambda entry: entry.metrics["macs"])
    assert colours(by_cost[0].metrics) == STOPS[0]
    assert colours(by_cost[-1].metrics) == STOPS[-1]


def figures(run: RunData, axis: str, quality: str) -> list[Figure]:
    (group,) = [g for g in search_figures.against(run, axis) if g.title == label(quality)]
    return list(group.figures)


def line_of(figure: Figure) -> dict | None:
    lines = [trace for trace in figure.plot["data"] if trace.get("name") == "front"]
    return lines[0] if lines else None


def test_the_front_is_shown_at_each_resolution(run: RunData) -> None:
    shown = figures(run, "macs", "loss")
    assert [figure.title for figure in shown] == ["16 px", "32 px"]
    for side, figure in zip(run.resolutions, shown, strict=True):
        dots, line, front, members = figure.plot["data"]
        assert len(dots["x"]) == len(run.evaluations)
        assert len(front["x"]) == len(run.fronts[side])
        assert list(line["x"]) == sorted(line["x"])
        assert sorted(line["y"], reverse=True) == list(line["y"])
        assert line["line"]["shape"] == "hv"
        assert list(members["text"]) == [str(member.number) for member in run.members]
        assert f"hypervolume {run.hypervolume[side]:.4f}" in figure.note
        assert (
            figure.plot["layout"]["yaxis"]["title"]["text"] == "validation loss (lower is better)"
        )


def test_the_front_of_a_metric_to_maximise_is_the_upper_envelope(make_run) -> None:
    run = collect(make_run(steps=60, objectives=("temporal_consistency", "macs")))
    assert [group.title for group in search_figures.against(run, "macs")] == [
        "temporal consistency"
    ]
    for side, figure in zip(
        run.resolutions, figures(run, "macs", "temporal_consistency"), strict=True
    ):
        line = line_of(figure)
        assert line is not None
        metrics = {e.arch.id: e.metrics for e in run.evaluations if e.arch.id in run.fronts[side]}
        assert len(line["y"]) == len(metrics)
        assert sorted(line["x"]) == list(line["x"])
        assert sorted(line["y"]) == list(line["y"]), "what costs more is better"
        for entry in run.evaluations:
            x, y = entry.metrics[f"macs@{side}"], entry.metrics[f"temporal_consistency@{side}"]
            best = max((b for a, b in zip(line["x"], line["y"], strict=True) if a <= x * 1.0001))
            assert y <= best * 1.0001, "nothing lies above the front"
        title = figure.plot["layout"]["yaxis"]["title"]["text"]
        assert title == "temporal consistency (higher is better)"
        assert "hypervolume" not in figure.note, "nothing says how bad the worst is"


@pytest.mark.slow
@pytest.mark.parametrize(
    "objectives",
    [("loss", "temporal_consistency", "macs"), ("loss", "temporal_consistency"), ("loss",)],
)
def test_no_line_is_called_the_front_that_is_not_it(make_run, objectives) -> None:
    run = collect(make_run(steps=60, objectives=objectives))
    qualities = [name for name in objectives if name != "macs"]
    for axis in ("macs", "params"):
        titles = [group.title for group in search_figures.against(run, axis)]
        assert titles == [label(name) for name in qualities], "each quality against each cost"
        for name in qualities:
            for side, figure in zip(run.resolutions, figures(run, axis, name), strict=True):
                assert line_of(figure) is None
                assert len(figure.plot["data"][1]["x"]) == len(run.fronts[side])


def test_without_a_cost_two_objectives_are_shown_against_each_other(make_run) -> None:
    run = collect(make_run(steps=60, objectives=("loss", "temporal_consistency")))
    assert next(iter(search_figures.fronts(run))) == "temporal consistency"
    for figure in figures(run, "temporal_consistency", "loss"):
        line = line_of(figure)
        assert line is not None
        assert line["line"]["shape"] == "vh", "more consistency is better, and costs loss"
        assert sorted(line["y"]) == list(line["y"])


def test_the_line_is_only_where_both_its_metrics_are(run: RunData) -> None:
    assert all(line_of(figure) is None for figure in figures(run, "params", "loss"))


def test_what_misses_a_constraint_is_hollow(make_run) -> None:
    folder = make_run(steps=60)
    record = folder / "search" / "record.jsonl"
    first, *lines = [json.loads(line) for line in record.read_text().splitlines()]
    changed = [first | {"violation": 0.5}, *lines]
    record.write_text("".join(json.dumps(line) + "\n" for line in changed))
    run = collect(folder)
    dots = figures(run, "macs", "loss")[0].plot["data"][0]
    assert list(dots["marker"]["symbol"]).count("circle-open") == 1
    assert "violates a constraint" in dots["customdata"][0]
    assert "hollow ones violate a constraint" in views.front_lead(run)


def test_what_says_nothing_is_not_shown(run: RunData) -> None:
    assert "hypervolume" in figures(run, "macs", "loss")[0].note
    useless = replace(run, hypervolume=dict.fromkeys(run.hypervolume, 0.0))
    assert "hypervolume" not in figures(useless, "macs", "loss")[0].note
    assert "trained further" not in views.front_lead(run)
    assert "trained further" in views.front_lead(replace(run, recovered=({"id": "a"},)))


def test_the_worst_ratio_is_named_as_such_on_either_side_of_one(run: RunData) -> None:
    ratio = {"median": 0.8, "max": 0.9, "largest": 1.1}
    compared = {"subnets": [{}] * 2, "settings": {"steps": 5}, "agreement": {"ratio": ratio}}
    said = ranking.lead(replace(run, ranking=compared))
    assert "20.0% lower in the median, 10.0% lower at worst, and 10.0% higher for the" in said


@pytest.mark.parametrize(("name", "is_shown"), [("blocks.5", True), ("block_" * 5 + "5", False)])
def test_names_of_blocks_are_shown_where_they_fit(run: RunData, name: str, is_shown: bool) -> None:
    found = {"clips": 2, "blocks": [{"name": name, "loss": 0.1}], "units": []}
    (figure,) = importance.figures(replace(run, importance={"start": found}))
    assert figure.plot["layout"]["xaxis"].get("showticklabels", True) == is_shown


def test_hovering_says_what_is_better(make_run) -> None:
    run = collect(make_run(steps=60, objectives=("temporal_consistency", "macs")))
    *_, members = figures(run, "macs", "temporal_consistency")[0].plot["data"]
    value = run.members[0].metrics["temporal_consistency@16"]
    expected = f"temporal consistency at 16 px: {value:.4f} (higher is better)"
    assert expected in members["customdata"][0]


def test_metrics_evaluated_after_the_search_are_shown_too(make_run) -> None:
    run = collect(make_run(steps=60, after=("temporal_consistency",)))
    assert run.goals.objectives == ("loss", "macs")
    groups = search_figures.against(run, "macs")
    assert [group.title for group in groups] == ["validation loss", "temporal consistency"]
    for figure in groups[1].figures:
        assert [len(trace["x"]) for trace in figure.plot["data"]] == [0, 0, len(run.members)]


def test_only_members_have_a_latency(run: RunData) -> None:
    for figure in figures(run, "latency_ms", "loss"):
        sizes = [len(trace["x"]) for trace in figure.plot["data"]]
        assert sizes == [0, 0, len(run.members)]
    assert search_figures.against(run, "never_measured") == []


@pytest.mark.slow
def test_a_page_stays_light_however_much_was_evaluated(make_run) -> None:
    run = collect(make_run(steps=60, evaluated=1500))
    assert len(run.evaluations) > plots.POINTS
    dots, *_ = figures(run, "macs", "loss")[0].plot["data"]
    assert len(dots["x"]) == plots.POINTS


def test_the_search_never_gets_worse(run: RunData) -> None:
    figure = search_figures.search_progress(run)
    assert figure is not None
    (curve,) = figure.plot["data"]
    assert list(curve["y"]) == sorted(curve["y"])
    assert curve["y"][-1] == 100
    assert curve["x"][-1] == len(run.evaluations)


def test_without_a_worst_value_progress_is_the_best_so_far(make_run) -> None:
    run = collect(make_run(steps=60, objectives=("temporal_consistency", "macs")))
    figure = search_figures.search_progress(run)
    assert figure is not None
    assert figure.note == "best temporal consistency at 32 px so far; higher is better"
    (curve,) = figure.plot["data"]
    assert list(curve["y"]) == sorted(curve["y"])
    best = max(entry.metrics["temporal_consistency@32"] for entry in run.evaluations)
    assert curve["y"][-1] == pytest.approx(best, rel=1e-4)


def test_progress_says_what_its_hypervolume_is_of(run: RunData) -> None:
    figure = search_figures.search_progress(run)
    assert figure is not None
    assert "of validation loss and MACs at 32 px" in figure.note


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
        assert line["y0"] == line["y1"] == 0.6 + side.height / 1000


def test_smoothing_keeps_a_constant_from_the_first_value_on() -> None:
    np.testing.assert_allclose(training_figures.smoothed(np.full(500, 0.3)), 0.3)


def test_smoothing_lies_within_the_values_and_follows_them() -> None:
    values = np.linspace(1, 0, 1000)
    smooth = training_figures.smoothed(values)
    assert (np.diff(smooth) < 0).all()
    assert smooth[-1] == pytest.approx(0, abs=0.06)


def test_a_step_that_was_skipped_is_a_gap_and_not_a_zero(run: RunData) -> None:
    (bad,) = {*run.steps.skipped.step} & {37}
    for figure in (*training_figures.training(run), *training_figures.optimizer(run)[1:]):
        assert all(bad not in trace["x"] for trace in figure.plot["data"] if trace["x"] is not None)
