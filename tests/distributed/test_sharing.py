"""Work that ranks divide: the same results on any number of them, and nothing lost with a rank."""

import json
import os
import signal
import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from nasvid.architecture import Architecture
from nasvid.distributed.ranks import ALONE, Ranks, joined
from nasvid.distributed.sharing import divide, lead
from nasvid.distributed.signals import stop_requests
from nasvid.errors import Interrupted, RankLost, UserError
from nasvid.evaluation import Evaluation
from nasvid.evaluator import Evaluator, Metric, Metrics
from nasvid.metrics.cost import Cost, CostConfig
from nasvid.metrics.loss import DenoisingLoss
from nasvid.recipe.sections import SearchSection
from nasvid.search.driver import run_search
from nasvid.search.evaluating import Evaluating, Unrecorded
from nasvid.strategy import StrategySection
from nasvid.testing.toy import ToySpace, toy_context

BUDGET = 22


class Watched(Evaluator):
    """Says where it evaluates; the fourth time on rank 1 it does what the test says."""

    metrics = (Metric("place", "", per_resolution=False),)

    def __init__(self, context: Any, ranks: Ranks, then: Callable[[], None]) -> None:
        super().__init__(None, context)
        self.ranks, self.then, self.count = ranks, then, 0

    def evaluate(self, architectures: Sequence[Architecture]) -> list[Metrics]:
        if self.ranks.size > 1:
            time.sleep(0.02)  # so that all ranks get some
        self.count += 1
        if self.ranks.rank == 1 and self.count == 4:
            self.then()
        print(f"evaluated on rank {self.ranks.rank}")
        return [{"place": 0.0} for _ in architectures]


class Clock(Evaluator):
    """Measured: on rank 0 alone, while the other ranks wait."""

    metrics = (Metric("seconds", "s", per_resolution=False, measured=True),)

    def evaluate(self, architectures: Sequence[Architecture]) -> list[Metrics]:
        print("measured on rank", os.environ.get("RANK", 0))
        return [{"seconds": 1.0} for _ in architectures]


def search(record: Path, then: Callable[[], None] = lambda: None) -> None:
    """Search the toy space on all ranks; say why it ends, unless it has found everything."""
    with joined() as ranks, stop_requests(quiet=True) as stop:
        context = toy_context(ToySpace.of())
        evaluators = [
            Clock(None, context),
            Cost(CostConfig(), context),
            DenoisingLoss(DenoisingLoss.Config(), context),
            Watched(context, ranks, then),
        ]
        unrecorded = Unrecorded(record.parent / "unrecorded", ranks)
        ranks.rank0_does(unrecorded.read, stop)
        evaluating = Evaluating(evaluators, unrecorded)
        strategy = StrategySection.model_validate({"name": "evolutionary", "population": 6})
        section = SearchSection(
            strategy=strategy, budget=BUDGET, batch=6, constraints=("params <= 450",)
        )
        searched = partial(
            run_search, section, context, seed=3, record_path=record, evaluating=evaluating
        )
        try:
            lead(ranks, evaluating.on_any_rank, lambda share: searched(share=share), stop)
        except (UserError, RankLost, Interrupted) as error:
            print(f"rank {ranks.rank}: {type(error).__name__}: {error}")
            if ranks.is_rank0 and isinstance(error, RankLost):
                raise  # as a run does, which does not wait for those that have gone


def lines(record: Path) -> list[dict]:
    return [json.loads(line) | {"seconds": 0} for line in record.read_text().splitlines()]


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> list[dict]:
    """The record that one rank makes."""
    record = tmp_path_factory.mktemp("whole") / "record.jsonl"
    search(record)
    assert len(lines(record)) == BUDGET
    return lines(record)


@pytest.mark.slow
@pytest.mark.parametrize("ranks", [2, 4])
def test_ranks_make_the_record_that_one_makes(ranks, whole, forked, tmp_path) -> None:
    record = tmp_path / "run" / "record.jsonl"
    statuses, said = forked(ranks, lambda: search(record))
    assert statuses == [0] * ranks, said
    assert lines(record) == whole
    shares = [said.count(f"evaluated on rank {rank}") for rank in range(ranks)]
    assert sum(shares) == BUDGET
    assert min(shares) > 0
    assert said.count("measured on rank 0") == BUDGET
    assert not (tmp_path / "run/unrecorded").exists()


def fail() -> None:
    raise UserError("this architecture is not to its taste")


@pytest.mark.slow
@pytest.mark.parametrize(
    ("then", "expected", "cause"),
    [
        (fail, [0, 0], "rank 0: UserError: this architecture is not to its taste"),
        (
            lambda: 1 / 0,
            [1, 1],
            "rank 0: RankLost: Rank 1 has failed: ZeroDivisionError",
        ),
        (lambda: os.kill(os.getpid(), signal.SIGKILL), [1, -9], "rank 0: RankLost: "),
        (
            lambda: os.kill(os.getpid(), signal.SIGTERM),
            [0, 0],
            "rank 0: Interrupted: Interrupted",
        ),
    ],
    ids=["error", "bug", "killed", "signal"],
)
def test_a_lost_rank_ends_the_search_and_loses_no_evaluation(
    then, expected, cause, whole, forked, tmp_path, capsys
) -> None:
    record = tmp_path / "run" / "record.jsonl"
    statuses, said = forked(2, lambda: search(record, then))
    assert statuses == expected, said
    assert cause in said
    evaluated = sum(said.count(f"evaluated on rank {rank}") for rank in (0, 1))
    assert 3 <= evaluated < BUDGET  # what rank 1 has done, at least
    capsys.readouterr()
    search(record)
    assert capsys.readouterr().out.count("evaluated on rank 0") == BUDGET - evaluated
    assert lines(record) == whole
    assert not (tmp_path / "run/unrecorded").exists()


@pytest.mark.slow
def test_a_failure_of_rank_0_ends_the_others(forked) -> None:
    def work() -> None:
        with joined() as ranks:
            try:
                lead(ranks, abs, lambda share: [*share([-1, 2]), 1 / 0], lambda: None)
            except (RankLost, ZeroDivisionError) as error:
                print(f"rank {ranks.rank}: {error}")
            ranks.agree(None)  # rank 0 has the store, which has to last

    statuses, said = forked(2, work)
    assert statuses == [0, 0]
    assert "rank 0: division by zero" in said
    assert "rank 1: Rank 0 has failed" in said


def test_a_single_rank_does_each_piece_when_its_result_is_asked_for() -> None:
    done: list[int] = []

    def do(number: int) -> int:
        done.append(number)
        return -number

    def body(share) -> int:
        assert [(result, len(done)) for result in share([3, 5])] == [(-3, 1), (-5, 2)]
        return 7

    assert lead(ALONE, do, body, lambda: None) == 7
    assert divide(ALONE, [1, 2], do, lambda: None) == [-1, -2]
    with pytest.raises(Interrupted):
        divide(ALONE, [8, 9], do, lambda: 15)
    assert done == [3, 5, 1, 2, 8]


def test_what_ranks_left_is_put_together(tmp_path: Path) -> None:
    a, b = Architecture({"w": 1}), Architecture({"w": 2})
    for rank, arch, name in ((0, a, "x"), (1, a, "y"), (1, b, "x")):
        Unrecorded(tmp_path / "left", Ranks(rank, 2)).add(Evaluation(arch, {name: 0.5}, 0.0))
    with (tmp_path / "left/rank-00001.jsonl").open("a") as file:
        file.write('{"id": "torn by a k')
    left = Unrecorded(tmp_path / "left", ALONE)
    left.read()
    assert {arch: each.metrics for arch, each in left.found.items()} == {
        a: {"x": 0.5, "y": 0.5},
        b: {"x": 0.5},
    }
    left.forget([a])
    assert left.folder.exists()
    left.forget([b])
    assert not left.folder.exists()
