from collections.abc import Callable
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest

from nasvid.errors import UserError
from nasvid.evaluation import Evaluation
from nasvid.preflight import RecipeError, check_named, load_recipe
from nasvid.sampler import Sampler
from nasvid.search.attentive import Attentive
from nasvid.search.record import append_record
from nasvid.testing.sampler import SamplerConformance, step_of
from nasvid.testing.toy import LARGE, SHAPES, ToySpace

SPACE = ToySpace.of()


def write_record(path: Path, n: int = 60, space: ToySpace = SPACE) -> Path:
    """Write a record whose loss is lower the more blocks an architecture has."""
    for genome in space.random_genomes(np.random.default_rng(0), n):
        arch = space.decode(genome)
        blocks = sum(bool(arch[f"block.{i}"]) for i in range(space.config.blocks))
        append_record(path, Evaluation(arch, {"loss": 1 - 0.2 * blocks}, 0.0))
    return path


def make(**options: Any) -> Attentive:
    return Attentive(Attentive.Config.model_validate(options))


class TestAttentive(SamplerConformance):
    sampler = Attentive
    options: ClassVar = {"candidates": 4}


class TestAttentiveToTheWorst(SamplerConformance):
    sampler = Attentive
    options: ClassVar = {"candidates": 4, "prefer": "worst", "metric": "params"}


class TestAttentiveByARecord(SamplerConformance):
    sampler = Attentive

    @pytest.fixture(autouse=True)
    def _record(self, tmp_path: Path) -> None:
        self.path = write_record(tmp_path / "record.jsonl")

    def make(self) -> Sampler:
        return make(candidates=4, record=str(self.path))


def mean(sampler: Attentive, value: Callable[[Any], float]) -> float:
    archs = [sampler.plan(step_of(SPACE, number)).subnets[0].arch for number in range(30)]
    return float(np.mean([value(arch) for arch in archs]))


def test_best_and_worst_differ_in_the_estimate_and_not_in_the_cost(tmp_path: Path) -> None:
    path = str(write_record(tmp_path / "record.jsonl"))
    best, worst = (make(prefer=each, record=path) for each in ("best", "worst"))

    def blocks(arch: Any) -> float:
        return sum(bool(arch[f"block.{i}"]) for i in range(3))

    def macs(arch: Any) -> float:
        return SPACE.cost(arch, "macs", SHAPES[LARGE]) / SPACE.cost(
            SPACE.largest, "macs", SHAPES[LARGE]
        )

    assert mean(best, blocks) > mean(worst, blocks) + 0.5
    assert abs(mean(best, macs) - mean(worst, macs)) < 0.1


def test_without_a_record_the_other_cost_is_the_estimate() -> None:
    def params(arch: Any) -> float:
        return SPACE.cost(arch, "params", SHAPES[LARGE])

    assert mean(make(prefer="best"), params) > mean(make(prefer="worst"), params)


@pytest.mark.parametrize(
    ("n", "options", "message"),
    [
        (0, {}, "does not exist"),
        (5, {}, "has 5 evaluations with a finite 'loss'; attentive needs at least 16"),
        (60, {"objective": "fvd"}, "has 0 evaluations with a finite 'fvd'"),
    ],
)
def test_a_record_that_teaches_nothing_is_an_error(
    tmp_path: Path, n: int, options: dict, message: str
) -> None:
    path = tmp_path / "record.jsonl"
    space = ToySpace.of(widths=tuple(range(2, 20)))
    write_record(path, n, space)
    with pytest.raises(UserError, match=rf"^The record .*record.jsonl {message}"):
        make(record=str(path), **options)


def test_a_record_of_another_space_is_an_error(tmp_path: Path) -> None:
    path = write_record(tmp_path / "record.jsonl", space=ToySpace.of(blocks=4))
    with pytest.raises(UserError, match=r"is not of this space .*'block.3'.*; name that"):
        make(record=str(path)).plan(step_of(SPACE, 0))


def test_a_damaged_record_is_another_searchs_and_not_to_be_deleted(tmp_path: Path) -> None:
    path = write_record(tmp_path / "record.jsonl")
    path.write_text("{}\n" + path.read_text())
    with pytest.raises(UserError, match=r"record.jsonl:1 .*name the record of another search$"):
        make(record=str(path))


def test_the_record_is_checked_before_a_run_begins(tmp_path: Path, write_recipe: Callable) -> None:
    """Within other samplers, too; the training may begin hours later."""
    path = write_record(tmp_path / "record.jsonl")
    sampler = f"{{name: attentive, record: {path}}}"
    sampler = f"sampler={{name: warm_up, inner: {{name: sandwich, inner: {sampler}}}}}"
    loaded = load_recipe(write_recipe(), overrides=[sampler])
    with pytest.raises(RecipeError, match=r"sampler.*record.jsonl is not of this space"):
        check_named(loaded)
    path.unlink()
    with pytest.raises(RecipeError, match=r"sampler.*record.jsonl does not exist"):
        check_named(loaded)
