"""The example of an evaluator that samples videos: run in all places it can have."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from nasvid import plugins
from nasvid.cli.main import main
from nasvid.export.subnet import read_info
from nasvid.preflight import RecipeError, load_recipe
from nasvid.testing.toy import ToySpace, toy_context

EXAMPLE = Path(__file__).parents[2] / "examples" / "custom_evaluator"
SMALL = (
    "training.steps=2",
    "search.budget=6",
    "search.clips=4",
    "search.strategy.population=4",
    "front.subnets=2",
    "front.sampling_steps=2",
    "resolutions.16.batch=2",
    "data.workers=0",
)
SEARCHED = "search.evaluators=[{name: cost}, {name: temporal_consistency, videos: 2}]"
AFTERWARDS = "front.evaluators=[{name: temporal_consistency, videos: 3}, {name: latency}]"

plugins.load_file(EXAMPLE / "consistency.py")


def test_it_is_under_sixty_lines() -> None:
    assert len((EXAMPLE / "consistency.py").read_text().splitlines()) < 60


def test_the_document_shows_the_file_as_it_is() -> None:
    text = (EXAMPLE.parents[1] / "docs" / "evaluators.md").read_text()
    assert (EXAMPLE / "consistency.py").read_text() in text


def nasvid(verb: str, *arguments: object) -> str:
    result = CliRunner().invoke(main, [verb, *map(str, arguments)], catch_exceptions=False)
    assert result.exit_code == 0, result.output
    return result.output


def sets(*changes: str) -> list[str]:
    return [option for change in changes for option in ("--set", change)]


def read(path: Path) -> Any:
    return json.loads(path.read_text())


def evaluated(run: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (run / "search/record.jsonl").read_text().splitlines()]


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a run that maximises consistency, under a constraint on it that half can satisfy."""
    out = tmp_path_factory.mktemp("custom_evaluator") / "run"
    changes = (SEARCHED, "search.objectives=[consistency, macs]", "search.constraints=[]")
    nasvid("run", EXAMPLE / "recipe.yaml", "--out", out, *sets(*SMALL, *changes, AFTERWARDS))
    return out


@pytest.mark.slow
def test_it_is_an_objective_to_maximise(run: Path) -> None:
    goals = read(run / "search/goals.json")
    assert goals["objectives"] == ["consistency", "macs"]
    declared = goals["metrics"]["consistency"]
    assert (declared["goal"], declared["reference"], declared["ideal"]) == ("maximise", 0, 1)
    scores = {each["id"]: each["metrics"] for each in evaluated(run)}
    on_front = set(read(run / "search/front.json")["fronts"]["16"])
    for id_, own in scores.items():
        better = [
            other
            for other in scores.values()
            if other["consistency"] >= own["consistency"]
            and other["macs"] <= own["macs"]
            and (other["consistency"], other["macs"]) != (own["consistency"], own["macs"])
        ]
        assert (id_ in on_front) == (not better)
    assert 0 < read(run / "search/front.json")["hypervolume"]["16"] < 1


@pytest.mark.slow
def test_it_evaluates_the_front_in_a_file_of_its_own(run: Path) -> None:
    found = read(run / "evaluate/metrics.json")
    assert found["declared"]["consistency"]["goal"] == "maximise"
    assert {"latency_ms", "latency_rel"} < found["declared"].keys()
    assert {part["name"] for part in found["made_with"]} == {"temporal_consistency", "latency"}
    searched = {each["id"]: each["metrics"]["consistency"] for each in evaluated(run)}
    for member in read(run / "search/front.json")["members"]:
        after = found["metrics"][member["id"]]
        assert member["metrics"]["consistency"] == searched[member["id"]]
        assert "latency_ms" not in member["metrics"]
        assert after["consistency"] != searched[member["id"]]  # of three videos, not two
        card = read_info(run / "subnets" / member["id"]).metrics
        assert card == member["metrics"] | after


@pytest.mark.slow
def test_what_was_evaluated_with_the_same_settings_is_kept(run: Path, tmp_path: Path) -> None:
    run = shutil.copytree(run, tmp_path / "run")
    before = read(run / "evaluate/metrics.json")["metrics"]
    written = (run / "search/front.json").read_bytes()
    said = nasvid("search", run)
    assert "evaluate: nothing to do" in said
    assert read(run / "evaluate/metrics.json")["metrics"] == before
    assert (run / "search/front.json").read_bytes() == written
    nasvid("search", run, *sets("front.sampling_steps=3"))
    after = read(run / "evaluate/metrics.json")["metrics"]
    assert before.keys() == after.keys()
    for id_, metrics in after.items():
        assert metrics["latency_ms"] == before[id_]["latency_ms"]
        assert metrics["consistency"] != before[id_]["consistency"]


@pytest.mark.slow
def test_it_is_a_constraint(run: Path, tmp_path: Path) -> None:
    scores = sorted(each["metrics"]["consistency"] for each in evaluated(run))
    bound = sum(scores[1:3]) / 2
    changes = (SEARCHED, "search.objectives=[macs]", f"search.constraints=[consistency > {bound}]")
    out = tmp_path / "run"
    changes = (*changes, "front.evaluators=[]")
    nasvid("run", EXAMPLE / "recipe.yaml", "--out", out, *sets(*SMALL, *changes))
    found = evaluated(out)
    assert {each["metrics"]["consistency"] > bound for each in found} == {True, False}
    assert all(
        (each["violation"] == 0) == (each["metrics"]["consistency"] > bound) for each in found
    )
    members = read(out / "search/front.json")["members"]
    assert members
    assert all(member["metrics"]["consistency"] > bound for member in members)
    assert not (out / "evaluate").exists()


GAPS = """
from pydantic import PositiveInt

from nasvid import Config, Evaluator, Metric, register


class GapsConfig(Config):
    gaps: tuple[PositiveInt, ...] = (1,)


@register("evaluators", "gaps")
class Gaps(Evaluator[GapsConfig]):
    @classmethod
    def declare(cls, config):
        return tuple(Metric(f"gap_{gap}", "", per_resolution=False) for gap in config.gaps)

    def evaluate(self, architectures):
        return [{f"gap_{gap}": float(gap) for gap in self.config.gaps} for _ in architectures]
"""


def test_metrics_may_depend_on_options(write_recipe: Callable[..., Path]) -> None:
    evaluators = (
        "evaluators: [{name: cost}, {name: gaps, gaps: [2, 5]}]\n  objectives: [gap_5, macs]"
    )
    path = write_recipe({"objectives: [loss, macs]": evaluators}, "plugins: [gaps.py]\n")
    (path.parent / "gaps.py").write_text(GAPS)
    section = load_recipe(path).recipe.search.evaluators[1]
    assert [metric.name for metric in section.metrics] == ["gap_2", "gap_5"]
    made = section.make(toy_context(ToySpace.of()))
    assert made.metrics == section.metrics
    with pytest.raises(RecipeError, match="gap_3"):
        load_recipe(path, overrides=["search.objectives=[gap_3]"])
    twice = "front.evaluators=[{name: gaps, gaps: [1]}, {name: gaps, gaps: [1, 2]}]"
    with pytest.raises(RecipeError, match=r"front\.evaluators: gaps and gaps both report 'gap_1'"):
        load_recipe(path, overrides=[twice])


def test_the_metric_of_a_front_is_known_before_the_run(error_of: Callable[..., str]) -> None:
    change = "search.objectives=[consistence, macs]"
    message = error_of("run", EXAMPLE / "recipe.yaml", "--set", change)
    assert "consistence" in message
    assert "did you mean 'consistency'" in message
