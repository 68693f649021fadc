"""The runner of ablations: its variants, equal compute, and that it continues where it was."""

import json
import runpy
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml
from click.testing import CliRunner

from nasvid.preflight import load_recipe

ROOT = Path(__file__).parents[2]
RUNNER = ROOT / "benchmarks/ablations/run.py"
VARIANTS = RUNNER.with_name("variants.yaml")


def test_each_variant_is_the_recipe_but_for_the_one_thing_that_its_name_says(
    tiny: Callable[..., str], tmp_path: Path
) -> None:
    path = tmp_path / "recipe.yaml"
    path.write_text(tiny(training={"steps": 2, "distillation": 0.2}))
    known = yaml.safe_load(VARIANTS.read_text())
    found = {name: load_recipe(path, overrides=changes).recipe for name, changes in known.items()}
    samplers = {name: recipe.sampler.model_dump() for name, recipe in found.items()}
    assert samplers["no_warm_up"]["name"] == "sandwich"
    for name in ("warm_up_0.1", "warm_up_0.3", "warm_up_0.6"):
        assert found[name].sampler.make().config.end == float(name.rpartition("_")[2])
    assert samplers["one_subnet"] != samplers["one_subnet_uniform"] != samplers["uniform"]
    assert samplers["no_distillation"] == samplers["distillation_0.5"] == samplers["warm_up_0.3"]
    assert found["no_distillation"].training.distillation == 0
    kept = {
        name: recipe.model_dump(exclude={"sampler": True, "training": {"distillation"}})
        for name, recipe in found.items()
    }
    assert all(recipe == kept["recipe"] for recipe in kept.values())


@pytest.mark.slow
def test_variants_are_compared_at_equal_compute_and_continued(
    tiny: Callable[..., str], tmp_path: Path
) -> None:
    training = {"steps": 6, "learning_rate": 1e-3, "checkpoint_every": 3}
    data = {"frames": 2, "context_len": 6, "workers": 0}
    search = {"strategy": {"name": "random"}, "clips": 2}
    one = {"resolutions": {16: {"batch": 2}}, "data": data, "training": training, "search": search}
    (tmp_path / "recipe.yaml").write_text(tiny(**one))
    runner = runpy.run_path(str(RUNNER))["main"]
    options = ["--equal", "compute", "--seeds", "1"]
    words = [str(tmp_path / "recipe.yaml"), str(tmp_path / "out"), *options]

    def results(*only: str) -> dict:
        more = [word for name in only for word in ("--only", name)]
        done = CliRunner().invoke(runner, [*words, *more], catch_exceptions=False)
        assert done.exit_code == 0, done.output
        assert all(f"| {name} |" in done.output for name in only)
        return json.loads((tmp_path / "out/equal-compute/results.json").read_text())["variants"]

    first = results("one_subnet")
    log = tmp_path / "out/equal-compute/one_subnet/0/events.jsonl"
    before = log.read_text()
    both = results("no_warm_up", "one_subnet")
    assert log.read_text() == before
    assert both["one_subnet"] == first["one_subnet"]
    assert both["one_subnet"]["0"]["steps"] > both["no_warm_up"]["0"]["steps"]
    flops = [runs["0"]["flops"] for runs in both.values()]
    assert max(flops) < 1.3 * min(flops)
    assert both["no_warm_up"]["0"]["subnets"] == both["one_subnet"]["0"]["subnets"]
    assert len(set(both["one_subnet"]["0"]["losses"])) == 5
