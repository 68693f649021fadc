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
    path.write_text(tiny(training={"steps": 2}))
    known = yaml.safe_load(VARIANTS.read_text())
    found = {name: load_recipe(path, overrides=changes).recipe for name, changes in known.items()}
    samplers = {name: recipe.sampler.model_dump() for name, recipe in found.items()}
    assert samplers["no_warm_up"]["name"] == "cost_uniform"
    assert found["warm_up_0.5"].sampler.make().config.end == 0.5
    assert len({str(samplers[name]) for name in ("no_warm_up", "warm_up_0.5", "uniform")}) == 3
    assert samplers["sandwich_distilled"] == samplers["sandwich"]
    assert found["sandwich_distilled"].training.distillation == 0.5
    kept = {
        name: recipe.model_dump(exclude={"sampler": True, "training": {"distillation"}})
        for name, recipe in found.items()
    }
    assert all(recipe == kept["recipe"] for recipe in kept.values())


@pytest.mark.parametrize(
    ("variants", "words", "said"),
    [
        ("recipe: []", ["--only", "other"], "has no variant other"),
        ("recipe: []", ["--set", "training.stpes=3"], "did you mean 'steps'"),
        ("recipe: []", ["--scale", "huge"], "has no scales"),
        ("recipe:", [], "a list of KEY=VALUE"),
        ("{", [], "a list of KEY=VALUE"),
        ("", [], "a list of KEY=VALUE"),
    ],
)
def test_what_cannot_be_compared_ends_with_a_message(
    variants: str, words: list[str], said: str, tiny: Callable[..., str], tmp_path: Path
) -> None:
    recipe, own = tmp_path / "recipe.yaml", tmp_path / "variants.yaml"
    recipe.write_text(tiny())
    own.write_text(variants)
    runner = runpy.run_path(str(RUNNER))["main"]
    words = [str(recipe), str(tmp_path / "out"), "--variants", str(own), *words]
    done = CliRunner().invoke(runner, words)
    assert done.exit_code == 2, done.output
    assert said in " ".join(done.output.split())
    assert not (tmp_path / "out").exists()


@pytest.mark.slow
def test_variants_are_compared_at_equal_compute_and_continued(
    tiny: Callable[..., str], tmp_path: Path
) -> None:
    training = {"steps": 10, "learning_rate": 1e-3, "checkpoint_every": 5}
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

    first = results("uniform")
    log = tmp_path / "out/equal-compute/uniform/0/events.jsonl"
    before = log.read_text()
    both = results("sandwich", "uniform")
    assert log.read_text() == before
    assert both["uniform"] == first["uniform"]
    assert both["uniform"]["0"]["steps"] > both["sandwich"]["0"]["steps"]
    flops = [runs["0"]["flops"] for runs in both.values()]
    assert max(flops) < 1.3 * min(flops)
    assert both["sandwich"]["0"]["subnets"] == both["uniform"]["0"]["subnets"]
    assert len(set(both["uniform"]["0"]["losses"])) == 5
