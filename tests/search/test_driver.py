import dataclasses
import json
import math
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from nasvid.architecture import Architecture
from nasvid.errors import UserError
from nasvid.evaluation import Evaluation
from nasvid.evaluator import Evaluator
from nasvid.plugins.config import Config
from nasvid.search.driver import IDLE_ROUNDS, Progress, SearchResult, search
from nasvid.search.evaluating import Evaluating
from nasvid.search.front import fronts
from nasvid.search.goals import Goals
from nasvid.search.record import read_record
from nasvid.search.unmet import NothingFoundError
from nasvid.strategy import Problem, RunContext, SearchObserver, Strategy
from nasvid.testing.toy import LARGE, SHAPES, ToySpace
from nasvid_strategies.evolutionary import Evolutionary
from nasvid_strategies.random import RandomSearch

MakeGoals = Callable[..., Goals]


class Scripted(Strategy):
    """Asks for given architectures, round after round, and remembers the evaluations received."""

    def __init__(self, problem: Problem, rounds: Sequence[Sequence[Architecture]]) -> None:
        super().__init__(None, problem)
        self.rounds = iter(rounds)
        self.told: list[Evaluation] = []

    def ask(self, n: int) -> list[Architecture]:
        return list(next(self.rounds, []))

    def tell(self, results: Sequence[Evaluation]) -> None:
        self.told += results


class Witness(SearchObserver):
    """Writes down what it receives; its notes go into the record."""

    def __init__(self, strategy: Strategy) -> None:
        super().__init__(strategy)
        assert isinstance(strategy, Witnessed)
        self.events = strategy.events

    def proposed(self, archs: Sequence[Architecture]) -> None:
        self.events.append(("proposed", list(archs)))

    def evaluating(self, arch: Architecture) -> dict[str, str]:
        self.events.append(("evaluating", arch))
        return {"number": str(len(self.events))}

    def evaluated(self, evaluation: Evaluation) -> None:
        self.events.append(("evaluated", evaluation.arch, evaluation.about))

    def close(self) -> None:
        self.events.append(("closed",))

    @classmethod
    def page(cls, config: Config, run: RunContext) -> AbstractContextManager[str]:
        return nullcontext(f"{run.folder}/page")


class Witnessed(Scripted):
    Observer = Witness

    def __init__(self, problem: Problem, rounds: Sequence[Sequence[Architecture]]) -> None:
        super().__init__(problem, rounds)
        self.events: list[tuple] = []


def run(
    goals: Goals, strategy: Strategy, evaluators: list[Evaluator], path: Path, **options: Any
) -> SearchResult:
    options = {"budget": 30, "batch": 8} | options
    return search(goals, strategy, Evaluating(evaluators).alone, record_path=path, **options)


def evolutionary(goals: Goals, seed: int = 0) -> Evolutionary:
    return Evolutionary(Evolutionary.Config(population=6), goals.problem(seed))


def random_search(goals: Goals, seed: int = 0) -> RandomSearch:
    return RandomSearch(RandomSearch.Config(), goals.problem(seed))


def some(space: ToySpace, n: int) -> list[Architecture]:
    """Architectures, no two alike, without the ends."""
    rng = np.random.default_rng(0)
    found = dict.fromkeys(space.sample(rng) for _ in range(20 * n))
    return [arch for arch in found if arch not in (space.smallest, space.largest)][:n]


def without_seconds(path: Path) -> list[dict]:
    return [json.loads(line) | {"seconds": 0} for line in path.read_text().splitlines()]


def test_evaluates_the_budget_each_once_the_ends_first(
    space, formula, evaluators, goals_of: MakeGoals, tmp_path: Path
) -> None:
    goals = goals_of()
    seen: list[Progress] = []
    path = tmp_path / "record.jsonl"
    result = run(goals, evolutionary(goals), evaluators, path, on_progress=seen.append)
    assert [r.arch for r in result.evaluations[:2]] == [space.smallest, space.largest]
    assert len(formula.evaluated) == len(set(formula.evaluated)) == 30
    assert [r.arch.id for r in result.evaluations] == formula.evaluated
    assert tuple(read_record(path)) == tuple(
        dataclasses.replace(r, seconds=round(r.seconds, 4)) for r in result.evaluations
    )
    assert [p.done for p in seen] == list(range(1, 31))
    assert seen[-1].best["loss"] == min(r.metrics["loss"] for r in result.evaluations)
    assert result.messages == ()


def test_what_was_evaluated_is_told_from_the_record(
    space, formula, evaluators, goals_of: MakeGoals, tmp_path: Path
) -> None:
    goals = goals_of()
    a, b, c = some(space, 3)
    strategy = Scripted(goals.problem(0), [[a, a, space.largest], [b, a], [c]])
    result = run(goals, strategy, evaluators, tmp_path / "r", budget=5)
    assert [r.arch for r in result.evaluations] == [space.smallest, space.largest, a, b, c]
    assert [j.arch for j in strategy.told] == [a, a, space.largest, b, a, c]
    known = {r.arch: goals.values(r.metrics).tolist() for r in result.evaluations}
    told = strategy.problem.objective_values(strategy.told).tolist()
    assert told == [known[evaluation.arch] for evaluation in strategy.told]


def test_two_names_of_one_network_are_one(
    space, formula, evaluators, goals_of: MakeGoals, tmp_path: Path
) -> None:
    goals = goals_of()
    alias = Architecture({**space.smallest, "block.0.hidden": 8})
    assert alias != space.smallest
    run(goals, Scripted(goals.problem(0), [[alias]]), evaluators, tmp_path / "r")
    assert len(formula.evaluated) == 2


def test_proposals_over_a_cost_are_told_their_violation_and_not_evaluated(
    space, formula, evaluators, goals_of: MakeGoals, tmp_path: Path
) -> None:
    top = space.cost(space.largest, "params", SHAPES[LARGE])
    goals = goals_of(("loss", "macs"), f"params <= {top / 2}")
    strategy = Scripted(goals.problem(0), [[space.largest]])
    result = run(goals, strategy, evaluators, tmp_path / "r")
    assert formula.evaluated == [space.smallest.id]
    (told,) = strategy.told
    assert told.violation == pytest.approx(1.0)
    assert np.isinf(goals.problem(0).objective_values([told])).all()
    assert not told.feasible
    assert len(result.evaluations) == 1


def test_constraints_hold_on_the_front(
    space, evaluators, goals_of: MakeGoals, tmp_path: Path
) -> None:
    goals = goals_of(("loss", "macs"), "params <= 250", "macs@8 >= 8e3", "loss@4 <= 0.15")
    for make in (evolutionary, random_search):
        result = run(goals, make(goals), evaluators, tmp_path / make.__name__, budget=60)
        assert {r.violation > 0 for r in result.evaluations} == {True, False}
        for front in fronts(result).values():
            assert len(front) > 0
            for record in front:
                assert record.metrics["params"] <= 250
                assert record.metrics["macs@8"] >= 8e3
                assert record.metrics["loss@4"] <= 0.15


def test_constraints_that_nothing_can_satisfy_say_what_there_is(
    evaluators, goals_of: MakeGoals, tmp_path: Path
) -> None:
    goals = goals_of(("loss",), "params <= 5")
    for make in (evolutionary, random_search):
        with pytest.raises(ValueError, match=r"params <= 5 \(this space ranges from 31 to 5\d\d\)"):
            run(goals, make(goals), evaluators, tmp_path / "r")


def test_measured_constraints_that_nothing_satisfies_are_told(
    evaluators, goals_of: MakeGoals, tmp_path: Path
) -> None:
    goals = goals_of(("loss",), "loss < 0")
    with pytest.raises(
        NothingFoundError,
        match=r"None of 30 evaluated architectures .*loss < 0 holds for 0 \(the lowest is",
    ):
        run(goals, evolutionary(goals), evaluators, tmp_path / "r")
    assert len(read_record(tmp_path / "r")) == 30


def test_metrics_that_are_never_finite_are_told(
    formula, evaluators, goals_of: MakeGoals, tmp_path: Path
) -> None:
    goals = goals_of(("loss",))
    formula.broken = type("Every", (), {"__contains__": lambda self, arch: True})()
    with pytest.raises(NothingFoundError, match=r"has finite metrics \(not finite: loss, loss@8\)"):
        run(goals, evolutionary(goals), evaluators, tmp_path / "r")


def test_a_strategy_that_repeats_itself_forever_ends_the_search(
    space, evaluators, goals_of: MakeGoals, tmp_path: Path
) -> None:
    goals = goals_of()
    (arch,) = some(space, 1)
    strategy = Scripted(goals.problem(0), [[arch]] * 10_000)
    result = run(goals, strategy, evaluators, tmp_path / "r")
    assert len(strategy.told) == IDLE_ROUNDS + 1
    assert "nothing new" in result.messages[0]
    assert "3 of 30" in result.messages[0]


def test_a_space_smaller_than_the_budget_is_evaluated_whole(evaluators, tmp_path: Path) -> None:
    space = ToySpace.of(widths=(2, 4), blocks=1)
    goals = Goals.of(space, SHAPES, evaluators[1:], ["loss"], [])
    for make in (evolutionary, random_search):
        result = run(goals, make(goals), evaluators[1:], tmp_path / make.__name__, budget=100)
        assert len(result.evaluations) == space.size == 6
        assert "nothing left to propose after 6 of 100" in result.messages[0]


def test_a_loss_that_is_not_finite_is_recorded_and_left_out(
    space, formula, evaluators, goals_of: MakeGoals, tmp_path: Path
) -> None:
    goals = goals_of()
    formula.broken = {arch.id for arch in some(space, 60)[::2]}
    path = tmp_path / "record.jsonl"
    result = run(goals, evolutionary(goals), evaluators, path, budget=60)
    broken = [r for r in result.evaluations if r.arch.id in formula.broken]
    assert 0 < len(broken) < 60
    assert f"not finite: {broken[0].arch.id}" in result.messages[0]
    assert f"({len(broken)} of 60 architectures)" in result.messages[0]
    assert all(math.isinf(r.violation) and math.isnan(r.metrics["loss@8"]) for r in broken)
    assert not {r.arch.id for f in fronts(result).values() for r in f} & formula.broken
    again = run(goals, evolutionary(goals), evaluators, path, budget=60)
    assert repr(again.evaluations) == repr(tuple(read_record(path)))


@pytest.mark.slow
@pytest.mark.parametrize("make", [evolutionary, random_search])
def test_a_search_cut_anywhere_resumes_as_if_it_had_not_been(
    formula, evaluators, goals_of: MakeGoals, tmp_path: Path, make: Callable[[Goals], Strategy]
) -> None:
    goals = goals_of(("loss", "macs"), "loss@4 <= 0.15")
    path = tmp_path / "record.jsonl"
    run(goals, make(goals), evaluators, path)
    whole, expected = path.read_bytes(), without_seconds(path)
    for end in np.random.default_rng(0).integers(0, len(whole), 12):
        path.write_bytes(whole[:end])
        kept = whole[:end].count(b"\n")
        formula.evaluated.clear()
        run(goals, make(goals), evaluators, path)
        assert without_seconds(path) == expected
        assert formula.evaluated == [line["id"] for line in expected[kept:]]


def test_a_larger_budget_evaluates_only_what_is_new(
    formula, evaluators, goals_of: MakeGoals, tmp_path: Path
) -> None:
    goals = goals_of()
    run(goals, evolutionary(goals), evaluators, tmp_path / "r", budget=20)
    result = run(goals, evolutionary(goals), evaluators, tmp_path / "r", budget=40)
    assert len(result.evaluations) >= 40
    assert len(formula.evaluated) == len(set(formula.evaluated)) == len(result.evaluations)


def test_a_record_of_other_evaluators_is_an_error(
    evaluators, goals_of: MakeGoals, space, tmp_path: Path
) -> None:
    goals = goals_of()
    run(goals, random_search(goals), evaluators, tmp_path / "r")
    fewer = Goals.of(space, SHAPES, evaluators[1:], ["loss"], [])
    with pytest.raises(ValueError, match=r"evaluated with other metrics .* delete the file"):
        run(fewer, random_search(fewer), evaluators[1:], tmp_path / "r")


def test_constraints_of_today_apply_to_records_of_yesterday(
    evaluators, goals_of: MakeGoals, tmp_path: Path
) -> None:
    goals = goals_of()
    run(goals, random_search(goals), evaluators, tmp_path / "r")
    tighter = goals_of(("loss", "macs"), "params <= 250", "loss <= 0.2")
    result = run(tighter, random_search(tighter), evaluators, tmp_path / "r")
    assert any(r.metrics["params"] > 250 for r in result.evaluations)
    assert result.feasible
    assert all(r.metrics["params"] <= 250 and r.metrics["loss"] <= 0.2 for r in result.feasible)


def test_an_evaluator_that_does_not_give_what_it_declares_is_named(
    formula, goals_of: MakeGoals, tmp_path: Path, evaluators, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(formula, "_one", lambda arch: {"loss": 0.5})
    goals = goals_of()
    with pytest.raises(ValueError, match=r"Formula declares .*loss@8.* but returns loss"):
        run(goals, random_search(goals), evaluators, tmp_path / "r")


def test_a_strategy_that_gives_more_than_it_was_asked_for_is_named(
    space, evaluators, goals_of: MakeGoals, tmp_path: Path
) -> None:
    goals = goals_of()
    strategy = Scripted(goals.problem(0), [some(space, 5)])
    with pytest.raises(ValueError, match="Scripted was asked for 2 architectures but returned 5"):
        run(goals, strategy, evaluators, tmp_path / "r", batch=2)


def test_an_observer_learns_what_is_new_in_order_and_is_closed(
    space, evaluators, goals_of: MakeGoals, tmp_path: Path
) -> None:
    top = space.cost(space.largest, "params", SHAPES[LARGE])
    goals = goals_of(("loss", "macs"), f"params <= {top / 2}")
    a, b = [
        arch for arch in some(space, 30) if space.cost(arch, "params", SHAPES[LARGE]) < top / 2
    ][:2]
    strategy = Witnessed(goals.problem(0), [[a, a, space.largest], [a], [b, space.smallest]])
    run(goals, strategy, evaluators, tmp_path / "r")
    about = [{"number": str(n)} for n in (2, 5, 9)]
    assert strategy.events == [
        ("proposed", [space.smallest]),
        ("evaluating", space.smallest),
        ("evaluated", space.smallest, about[0]),
        ("proposed", [a]),
        ("evaluating", a),
        ("evaluated", a, about[1]),
        ("proposed", []),
        ("proposed", [b]),
        ("evaluating", b),
        ("evaluated", b, about[2]),
        ("proposed", []),
        ("closed",),
    ]
    assert [evaluation.about for evaluation in read_record(tmp_path / "r")] == about
    strategy.events.clear()
    strategy.rounds = iter([[a], [b]])
    run(goals, strategy, evaluators, tmp_path / "r")
    assert strategy.events == [("proposed", [])] * 4 + [("closed",)]


def test_an_observer_is_closed_when_the_search_fails(
    space, formula, evaluators, goals_of: MakeGoals, tmp_path: Path, monkeypatch
) -> None:
    monkeypatch.setattr(formula, "_one", lambda arch: {"loss": 0.5})
    goals = goals_of()
    strategy = Witnessed(goals.problem(0), [])
    with pytest.raises(UserError, match="Formula declares"):
        run(goals, strategy, evaluators, tmp_path / "r")
    assert [event[0] for event in strategy.events] == ["proposed", "evaluating", "closed"]


def test_objective_values_are_to_be_minimised(space) -> None:
    problem = Problem(space, ("loss", "psnr"), 0, SHAPES[LARGE], np.zeros, frozenset({"psnr"}))
    scored = Evaluation(space.largest, {"psnr": 30.0, "loss": 0.5}, 0.0)
    broken = Evaluation(space.largest, {"psnr": -math.inf, "loss": math.nan}, math.inf)
    refused = Evaluation(space.largest, {}, 1.0)
    values = problem.objective_values([scored, broken, refused])
    assert values.tolist() == [[0.5, -30.0], [math.inf] * 2, [math.inf] * 2]
    assert problem.objective_values([]).shape == (0, 2)
