from collections.abc import Callable

import numpy as np
import pytest

from nasvid.evaluator import Evaluator, Metric
from nasvid.metrics.cost import Cost, CostConfig
from nasvid.search.goals import Goals
from nasvid.testing.toy import LARGE, SHAPES, SMALL, ToySpace

MakeGoals = Callable[..., Goals]


class Speed(Evaluator):
    metrics = (Metric("speed", "steps/s", goal="maximise", per_resolution=False),)

    def evaluate(self, architectures: object) -> list:
        raise AssertionError


@pytest.mark.parametrize("name", ["los", "loss@5", "params@4", "latency_ms"])
def test_an_objective_that_nobody_measures_is_an_error_with_the_nearest(
    goals_of: MakeGoals, name: str
) -> None:
    with pytest.raises(
        ValueError, match=f"no evaluator reports '{name}'; (did you mean|use one of)"
    ):
        goals_of((name, "macs"))


def test_a_constraint_that_nobody_measures_is_an_error_with_the_nearest(
    goals_of: MakeGoals,
) -> None:
    with pytest.raises(ValueError, match=r"'loss@6 < 0.3': .*did you mean 'loss@[48]'"):
        goals_of(("loss",), "loss@6 < 0.3")


def test_a_metric_of_two_evaluators_is_an_error(
    space: ToySpace, evaluators: list[Evaluator]
) -> None:
    with pytest.raises(ValueError, match="Cost and Cost both report 'params'"):
        Goals.of(space, SHAPES, [*evaluators, evaluators[0]], ["loss"], [])


def test_costs_can_be_constrained_without_an_evaluator_of_costs(
    space: ToySpace, evaluators: list[Evaluator]
) -> None:
    goals = Goals.of(space, SHAPES, evaluators[1:], ["loss"], ["params <= 100", "macs@4 <= 1e9"])
    assert [c.metric for c in goals.on_cost] == ["params", "macs@4"]


def test_feasible_is_what_the_costs_say(space: ToySpace, goals_of: MakeGoals) -> None:
    goals = goals_of(("loss",), "params <= 150", "macs > 2e3", "macs@8 <= 2e4")
    genomes = space.random_genomes(np.random.default_rng(0), 500)
    small, large = (space.costs(genomes, SHAPES[side]) for side in (SMALL, LARGE))
    mean = (small.macs + large.macs) / 2
    expected = (small.params <= 150) & (mean > 2e3) & (large.macs <= 2e4)
    assert 0 < expected.sum() < len(expected)
    assert (goals.problem(0).feasible(genomes) == expected).all()


def test_a_strategy_knows_costs_and_their_limits(space: ToySpace, goals_of: MakeGoals) -> None:
    problem = goals_of(("loss", "macs"), "params <= 150", "params > 20", "loss < 0.5").problem(0)
    genomes = space.random_genomes(np.random.default_rng(0), 50)
    assert problem.costs.keys() == {"macs", "params"}
    assert (problem.costs["params"](genomes) == space.costs(genomes, SHAPES[SMALL]).params).all()
    assert problem.limits == {"macs": (-np.inf, np.inf), "params": (20, 150)}


def test_feasibility_of_many_is_asked_of_the_space_at_once(
    space: ToySpace, goals_of: MakeGoals, monkeypatch: pytest.MonkeyPatch
) -> None:
    goals = goals_of(("loss",), "params <= 150", "macs <= 1e9")
    asked: list[int] = []
    costs = space.costs
    monkeypatch.setattr(space, "costs", lambda g, shape: (asked.append(len(g)), costs(g, shape))[1])
    goals.problem(0).feasible(space.random_genomes(np.random.default_rng(0), 10_000))
    assert asked == [10_000] * 3


def test_at_a_resolution_the_objectives_are_its_own(goals_of: MakeGoals) -> None:
    assert goals_of(("loss", "macs")).at(LARGE).objectives == ("loss@8", "macs@8")
    assert goals_of(("loss@4", "params", "loss@8")).at(LARGE).objectives == ("loss@8", "params")


def test_violations_of_cost_and_of_metrics_add_up(space: ToySpace, goals_of: MakeGoals) -> None:
    arch = space.largest
    params = space.cost(arch, "params", SHAPES[LARGE])
    goals = goals_of(("loss",), f"params <= {params / 2}", "loss@4 <= 0.1")
    metrics = {"loss@4": 0.3, "loss@8": 0.1, "loss": 0.2}
    assert goals.violation(arch, metrics) == pytest.approx(1 + 2)
    assert goals.violation(arch, metrics | {"loss@8": np.nan}) == np.inf


def test_a_percentage_is_of_the_largest_or_of_a_metrics_reference(
    space: ToySpace, goals_of: MakeGoals
) -> None:
    goals = goals_of(("loss",), "params <= 60%", "macs@4 >= 10 %", "loss < 25%")
    params, macs = goals.on_cost
    assert params.bound == 0.6 * space.cost(space.largest, "params", SHAPES[LARGE])
    assert macs.bound == pytest.approx(0.1 * space.cost(space.largest, "macs", SHAPES[SMALL]))
    assert goals.on_metrics[0].bound == 0.25
    assert goals.cost_violation(space.encode(space.largest)[None]) == pytest.approx(1 / 0.6 - 1)


def test_strategies_minimise_whatever_the_metric(space: ToySpace) -> None:
    goals = Goals.of(
        space, SHAPES, [Speed(None, None), Cost(CostConfig(), None)], ["speed", "macs"], []
    )  # pyright: ignore[reportArgumentType]
    assert goals.values({"speed": 4.0, "macs": 5.0}).tolist() == [-4.0, 5.0]
    assert goals.values({"speed": np.nan, "macs": np.inf}).tolist() == [np.inf, np.inf]
