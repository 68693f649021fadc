import json
import random
from collections.abc import Callable
from pathlib import Path

import pytest

from nasvid.errors import UserError
from nasvid.evaluation import Evaluation
from nasvid.evaluator import Metric
from nasvid.search.driver import SearchResult, search
from nasvid.search.evaluating import Evaluating
from nasvid.search.front import front_hypervolume, fronts, members, read_front, write_front
from nasvid.search.goals import Goals
from nasvid.testing.toy import LARGE, SHAPES, SMALL, ToySpace
from nasvid_strategies.random import RandomSearch

MakeGoals = Callable[..., Goals]


@pytest.fixture
def result(goals_of: MakeGoals, evaluators, tmp_path: Path) -> SearchResult:
    goals = goals_of()
    strategy = RandomSearch(RandomSearch.Config(), goals.problem(0))
    path = tmp_path / "record.jsonl"
    return search(
        goals, strategy, Evaluating(evaluators).alone, budget=60, batch=16, record_path=path
    )


def beaten(record: Evaluation, by: Evaluation, side: int) -> bool:
    a, b = ((r.metrics[f"loss@{side}"], r.metrics[f"macs@{side}"]) for r in (record, by))
    return b[0] <= a[0] and b[1] <= a[1] and a != b


def test_each_resolution_has_the_front_of_its_own_metrics(result: SearchResult) -> None:
    found = fronts(result)
    assert set(found) == set(SHAPES)
    for side, front in found.items():
        expected = {
            r.arch.id
            for r in result.evaluations
            if not any(beaten(r, other, side) for other in result.evaluations)
        }
        assert {r.arch.id for r in front} == expected
        macs = [r.metrics[f"macs@{side}"] for r in front]
        assert macs == sorted(macs)
    assert found[SMALL] != found[LARGE]


def test_nothing_depends_on_the_order_of_the_search(result: SearchResult, tmp_path: Path) -> None:
    write_front(tmp_path / "a.json", result, 5)
    shuffled = list(result.evaluations)
    random.Random(0).shuffle(shuffled)
    write_front(tmp_path / "b.json", SearchResult(result.goals, tuple(shuffled), ()), 5)
    assert (tmp_path / "a.json").read_bytes() == (tmp_path / "b.json").read_bytes()


def test_the_file_says_what_a_reader_needs(result: SearchResult, tmp_path: Path) -> None:
    write_front(tmp_path / "search" / "front.json", result, 5)
    front = json.loads((tmp_path / "search" / "front.json").read_text())
    assert set(front) == {"hypervolume", "fronts", "members"}
    assert set(front["fronts"]) == set(front["hypervolume"]) == {"4", "8"}
    by_id = {record.arch.id: record for record in result.evaluations}
    assert len(front["members"]) == 5
    for member in front["members"]:
        assert member["arch"] == dict(by_id[member["id"]].arch)
        assert member["metrics"] == by_id[member["id"]].metrics
        on = [side for side in (4, 8) if member["id"] in front["fronts"][str(side)]]
        assert member["resolutions"] == on != []


def test_members_are_the_ends_and_some_between(result: SearchResult) -> None:
    found = fronts(result)
    macs = [r.metrics["macs"] for r in members(found, result.goals, 4)]
    union = {r.arch: r.metrics["macs"] for front in found.values() for r in front}
    assert macs == sorted(macs)
    assert (macs[0], macs[-1], len(macs)) == (min(union.values()), max(union.values()), 4)
    assert {r.arch for r in members(found, result.goals, 1000)} == set(union)


def test_hypervolume_is_measured_from_fixed_ends(space: ToySpace, goals_of: MakeGoals) -> None:
    goals = goals_of().at(LARGE)
    top = space.cost(space.largest, "macs", SHAPES[LARGE])

    def scored(loss: float, share: float) -> Evaluation:
        metrics = {"loss@8": loss, "macs@8": share * top}
        return Evaluation(space.largest, metrics, 0.0, 0.0)

    assert front_hypervolume([], goals) == 0
    assert front_hypervolume([scored(0.25, 0.5)], goals) == pytest.approx(0.75 * 0.5)
    both = [scored(0.25, 0.5), scored(0.5, 0.25), scored(1.5, 0.01)]
    assert front_hypervolume(both, goals) == pytest.approx(0.75 * 0.5 + 0.25 * 0.5)


def test_hypervolume_leaves_out_what_has_no_worst(space: ToySpace, goals_of: MakeGoals) -> None:
    goals = goals_of(("loss",)).at(LARGE)
    assert goals.reference().tolist() == [1.0]
    unknown = {name: type(m)(m.name, m.unit) for name, m in goals.metrics.items()}
    bare = Goals(space, SHAPES, unknown, {}, ("loss@8",), (), ())
    assert front_hypervolume([], bare) is None


def test_what_is_to_be_maximised_counts_from_its_reference_to_its_ideal(space: ToySpace) -> None:
    score = Metric("score", "", goal="maximise", per_resolution=False, reference=1.0, ideal=5.0)
    goals = Goals(space, SHAPES, {"score": score}, {}, ("score",), (), ())
    found = [Evaluation(space.smallest, {"score": value}, 0.0) for value in (0.5, 2.0, 4.0, 6.0)]
    shares = [front_hypervolume([each], goals) for each in found]
    assert shares == pytest.approx([0, 0.25, 0.75, 1])
    assert front_hypervolume(found[:3], goals) == pytest.approx(0.75)
    with pytest.raises(ValueError, match=r"'score'.*ideal"):
        Metric("score", "", goal="maximise", reference=1.0)
    with pytest.raises(ValueError, match=r"no better than its reference 5"):
        Metric("score", "", goal="maximise", reference=5.0, ideal=1.0)


def test_the_file_is_read_back_typed(result: SearchResult, tmp_path: Path) -> None:
    path = tmp_path / "front.json"
    write_front(path, result, 5)
    front = read_front(path)
    found = fronts(result)
    expected = members(found, result.goals, 5)
    assert [m.evaluation.arch for m in front.members] == [each.arch for each in expected]
    assert [m.evaluation.metrics for m in front.members] == [each.metrics for each in expected]
    assert front.fronts == {side: tuple(e.arch.id for e in each) for side, each in found.items()}
    assert all(0 < front.hypervolume[side] < 1 for side in SHAPES)
    path.write_text('{"members": []}')
    with pytest.raises(UserError, match=r"front\.json is damaged \(it has no 'hypervolume'\)"):
        read_front(path)
