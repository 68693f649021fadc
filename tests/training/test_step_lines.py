"""The log of a training: few lines, however many steps, and what the report makes of them."""

import json
import math
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from nasvid.report.collect import collect
from nasvid.report.plots import POINTS
from nasvid.report.training_figures import optimizer, training
from nasvid.run.folder import RunFolder
from nasvid.shapes import Resolution
from nasvid.step_plan import Role
from nasvid.training.events import GroupLosses, Speed, StepEvent
from nasvid.training.step_lines import SINGLE, StepLines, sharing, summary

SPEED = Speed(seconds=1.0, waited=0.25, ranks=2, flops=3, utilization=None, memory=1)


def event(step: int, loss: float = 0.5) -> StepEvent:
    resolution, bad = Resolution.square(16 + 16 * (step % 2)), math.isnan(loss)
    return StepEvent(
        step=step,
        groups=(GroupLosses(step, resolution, 4, {Role.RANDOM: loss}),),
        subnets=("0123456789ab",),
        loss=None if bad else loss,
        losses={} if bad else {Role.RANDOM: loss},
        grad_norm=None if bad else 2 * loss,
        learning_rate=0.1,
        clips=4,
        skipped=bad,
        speed=SPEED,
    )


def logged(steps: range, every: int = 1000) -> Iterator[dict]:
    lines = StepLines("step", every)
    for step in steps:
        yield from lines.add(event(step, math.nan if step % 1000 == 999 else 1 / (1 + step)))
    yield from lines.rest()


def test_the_lines_grow_with_the_logarithm_of_the_steps() -> None:
    counts = {n: sum(1 for _ in logged(range(n), every=10**9)) for n in (SINGLE, 4 * SINGLE)}
    assert counts == {SINGLE: SINGLE, 4 * SINGLE: SINGLE + 2 * SINGLE // 2}
    assert [sharing(step) for step in (0, SINGLE - 1, SINGLE, 4 * SINGLE)] == [1, 1, 2, 8]


def test_every_step_is_in_one_line_and_none_crosses_a_checkpoint() -> None:
    lines = list(logged(range(4500)))
    ends = [line["step"] + 1 for line in lines]
    assert np.cumsum([line.get("steps", 1) for line in lines]).tolist() == ends
    assert {1000, 2000, 3000, 4000} < {*ends}
    assert lines[5] == event(5, 1 / 6).to_json()


def test_a_line_of_several_steps_has_their_means_sums_and_most() -> None:
    events = [event(0, 0.5), event(1, 0.1), event(2, 0.7), event(3, math.nan)]
    events[1] = replace(events[1], speed=replace(SPEED, memory=9, utilization=0.5))
    line = json.loads(json.dumps(summary(events, "rank_step")))
    assert (line["event"], line["step"], line["steps"], line["clips"]) == ("rank_step", 3, 4, 16)
    assert (line["seconds"], line["waited"], line["flops"], line["memory"]) == (4.0, 1.0, 12, 9)
    assert line["losses"]["random"] == line["loss"] == pytest.approx(1.3 / 3)
    assert line["grad_norm"] == pytest.approx(2.6 / 3)
    assert (line["skipped"], line["utilization"]) == (1, 0.5)
    small, large = line["groups"]
    assert (small["resolution"], small["steps"], large["steps"]) == (16, 2, 2)
    assert small["losses"] == {"random": pytest.approx(0.6)}
    assert large["losses"] == {"random": pytest.approx(0.1)}


@pytest.fixture
def folder(tmp_path: Path) -> RunFolder:
    (tmp_path / "recipe.yaml").write_text("resolutions: {16: {}, 32: {}}\n")
    return RunFolder(tmp_path)


def write(folder: RunFolder, lines: Iterator[dict]) -> None:
    with folder.events.open("a") as file:
        file.writelines(json.dumps(line) + "\n" for line in lines)


def test_the_report_draws_few_points_of_a_long_training(folder: RunFolder) -> None:
    steps = 5 * SINGLE
    write(folder, logged(range(steps)))
    run = collect(folder.path)
    assert len(run.steps) == steps
    assert run.steps.skipped.total() == steps // 1000
    assert sum(curve.total() for curve in run.steps.at.values()) == steps
    figures = [*training(run), *optimizer(run)]
    assert len(figures) == 4
    for figure in figures:
        for trace in figure.plot["data"]:
            assert POINTS / 2 < len(trace["x"]) <= POINTS
            assert (np.diff(trace["x"]) > 0).all()
    _, rough = figures[0].plot["data"]
    assert rough["x"][-1] > 0.99 * steps


def test_a_line_for_each_step_is_drawn_as_lines_of_several(folder: RunFolder) -> None:
    """As earlier versions have written them."""
    steps = range(SINGLE)
    write(folder, (event(step, 1 + step / 1e4).to_json() for step in steps))
    (curve, *_) = collect(folder.path).steps.losses.values()
    x, y = curve.drawn(POINTS)
    assert len(x) <= POINTS
    np.testing.assert_allclose(y, 1 + x / 1e4, atol=1e-3)


def test_a_resumed_training_replaces_what_it_repeats(folder: RunFolder) -> None:
    write(folder, logged(range(4500)))  # killed here, after the checkpoint at 4000
    write(folder, logged(range(4000, 4300)))
    assert len(collect(folder.path).steps) == 4300


@pytest.mark.parametrize("steps", [0, -1, 8, 10**30, 1.5])
def test_a_line_of_impossible_steps_is_damage(folder: RunFolder, steps: float, capsys) -> None:
    write(folder, iter([event(3).to_json(), event(6).to_json() | {"steps": steps}]))
    assert len(collect(folder.path).steps) == 1
    assert "1 damaged line left out" in capsys.readouterr().out
