"""`nasvid latency build` and `check`, and searches with the table."""

import json
import shlex
from collections.abc import Callable
from dataclasses import astuple
from pathlib import Path

import numpy as np
import pytest
import torch
from click.testing import CliRunner

from nasvid.cli.main import main
from nasvid.evaluator import Evaluator
from nasvid.host.device import autocast_dtype
from nasvid.latency import timing
from nasvid.latency.passes import END, memory_of
from nasvid.latency.table import Lookup, open_table
from nasvid.latency.timing import Bench
from nasvid.metrics.cost import Cost
from nasvid.preflight import RecipeError, check_named, load_recipe
from nasvid.search.goals import Goals
from nasvid.shapes import Resolution
from nasvid.supernet import Supernet
from nasvid_strategies.evolutionary import Evolutionary
from nasvid_strategies.random import RandomSearch

pytestmark = pytest.mark.slow
SMALL, LARGE = Resolution.square(16), Resolution.square(32)
SPACE = {
    "name": "elastic_unet",
    "widths": [[8, 16, 24]],
    "hidden_ratios": [1.0],
    "blocks_per_level": 1,
    "attention_levels": [],
    "switchable": ["temporal_conv", "self_attention"],
    "conditioning_width": 32,
    "head_dim": 8,
    "group_size": 4,
    "patch_size": 2,
}


def nasvid(*words: object) -> str:
    result = CliRunner().invoke(main, [str(word) for word in words], catch_exceptions=False)
    assert result.exit_code == 0, result.output
    return result.output


@pytest.fixture(scope="module")
def recipe(tiny: Callable[..., str], tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("latency") / "recipe.yaml"
    path.write_text(tiny(space=SPACE))
    return path


@pytest.fixture(scope="module")
def table(recipe: Path) -> Path:
    path = recipe.with_name("table.json")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(timing, "PASSES", 1)
        words = ["--rounds", 1, "--set", "search.constraints=[params <= 90%]"]
        lines = nasvid("latency", "build", recipe, "--out", path, *words).splitlines()
    assert str(path) in lines
    _, evaluators, _, constraints = shlex.split(lines[-1].partition(": ")[2])
    loaded = load_recipe(recipe, overrides=[evaluators, constraints])
    assert loaded.recipe.search.constraints == ("params <= 90%", "latency_ms <= 60%")
    cost, loss = loaded.recipe.search.evaluators
    assert cost.config.latency_table == str(path)
    assert loss.name == "loss"
    return path


@pytest.fixture(scope="module")
def lookup(recipe: Path, table: Path) -> Lookup:
    loaded = load_recipe(recipe)
    return open_table(table, loaded.space, loaded.recipe.shapes())


def with_table(recipe: Path, table: Path, *constraints: str) -> Goals:
    """Return the goals of a search for low latency with the table."""
    loaded = load_recipe(
        recipe,
        overrides=[
            f"search.evaluators=[{{name: cost, latency_table: {table}}}]",
            "search.objectives=[latency_ms, peak_memory]",
            f"search.constraints={json.dumps(constraints)}",
        ],
    )
    section = loaded.recipe.search
    evaluators: list[Evaluator] = [Cost(e.config, None) for e in section.evaluators]  # pyright: ignore[reportArgumentType]
    check_named(loaded)
    return Goals.of(
        loaded.space,
        loaded.recipe.shapes(),
        evaluators,
        section.objectives,
        section.constraints,
    )


@pytest.mark.parametrize("strategy", [RandomSearch, Evolutionary])
def test_nothing_above_the_latency_is_proposed(
    recipe: Path, table: Path, lookup: Lookup, strategy: type
) -> None:
    space = lookup.space
    low, high = lookup.milliseconds(
        np.stack([space.encode(space.smallest), space.encode(space.largest)]), LARGE
    )
    most = low + 0.6 * (high - low)
    goals = with_table(recipe, table, f"latency_ms@32 <= {most}", "peak_memory <= 90%")
    assert [each.metric for each in goals.on_cost] == ["latency_ms@32", "peak_memory"]
    proposed = strategy(strategy.Config(), goals.problem(0)).ask(16)
    genomes = np.stack([space.encode(arch) for arch in proposed])
    assert lookup.milliseconds(genomes, LARGE).max() <= most
    memory = np.mean([lookup.peak_memory(genomes, side) for side in (SMALL, LARGE)], axis=0)
    assert memory.max() <= goals.on_cost[1].bound
    assert goals.cost_axis == "latency_ms"
    assert goals.reference()[0] == pytest.approx(
        np.mean(
            [lookup.milliseconds(space.encode(space.largest)[None], s)[0] for s in (SMALL, LARGE)]
        )
    )


def test_a_lookup_does_not_depend_on_what_else_is_looked_up(lookup: Lookup) -> None:
    genomes = lookup.space.random_genomes(np.random.default_rng(0), 2000)
    together = lookup.milliseconds(genomes, LARGE)
    assert together[:9].tolist() == [lookup.milliseconds(g[None], LARGE)[0] for g in genomes[:9]]


def test_memory_is_that_of_a_pass(lookup: Lookup) -> None:
    space, device = lookup.space, torch.device("cpu")
    precision = autocast_dtype(lookup.table.made.precision, device)  # bf16 where a processor has it
    bench = Bench(Supernet(space), lookup.table.shapes, device, precision)
    for genome in space.random_genomes(np.random.default_rng(0), 3):
        model = bench.model(genome)
        given = [*model.parameters(), *model.buffers(), *astuple(bench.inputs[LARGE])]
        with bench.inference(), memory_of(device) as memory:
            bench.run(model, LARGE)
            memory.mark(END)
        most = sum(tensor.nbytes for tensor in given) + memory.parts[END].peak
        assert lookup.peak_memory(genome[None], LARGE)[0] == pytest.approx(most, rel=0.03)


def test_check_prints_the_error_beside_that_of_macs(recipe: Path, table: Path) -> None:
    words = ("latency", "check", table, recipe, "--n", 4, "--rounds", 1)
    text = nasvid(*words)
    for part in ("median error", "bias", "tau", "MACs", "Seconds of one clip, 30 steps"):
        assert part in text
    found = json.loads(nasvid(*words, "--json"))
    assert found["made"]["compiled"] is False
    for side in ("16", "32"):
        each = found["resolutions"][side]
        assert len(each["measured_ms"]) == len(each["predicted_ms"]) == 4
        assert each["errors"].keys() == {"table", "table without its bias", "MACs"}
        assert found["clips"][side]["smallest"] > 0
        assert found["clips"][side]["largest"] > 0


@pytest.mark.parametrize(
    ("key", "value"), [("device", "Abacus"), ("threads", 77), ("torch", "0.1")]
)
def test_check_needs_the_tables_own_device(
    recipe: Path, table: Path, error_of: Callable[..., str], key: str, value: object
) -> None:
    content = json.loads(table.read_text())
    content["made"][key] = value
    other = Path("other.json")
    other.write_text(json.dumps(content))
    message = error_of("latency", "check", other, recipe)
    assert f"{other} was built with {key} = {value}" in message
    assert "nasvid latency build" in message


def test_a_table_that_does_not_fit_is_refused_before_a_run(recipe: Path, table: Path) -> None:
    for path, change, what in (
        ("absent.json", "seed=1", "[Tt]here is no latency table"),
        (table, "space.widths=[[8]]", r"space.widths = .*\[8, 16, 24\]"),
        (table, "data.frames=8", "shapes.16.frames = 4, but the recipe has 8"),
    ):
        evaluators = f"search.evaluators=[{{name: cost, latency_table: {path}}}, {{name: loss}}]"
        sets = [evaluators, change]
        loaded = load_recipe(recipe, overrides=sets)  # a run without its table can be looked at
        with pytest.raises(RecipeError, match=rf"search.evaluators\[0\]: .*{what}.*latency build"):
            check_named(loaded)


def test_constraints_on_latency_are_checked_with_the_recipe(recipe: Path, table: Path) -> None:
    with pytest.raises(RecipeError, match="no architecture satisfies 'latency_ms <= 1e-06'"):
        with_table(recipe, table, "latency_ms <= 0.000001")
    with pytest.raises(
        RecipeError, match=r"give cost a latency_table.* latency build.*name: laten"
    ):
        load_recipe(recipe, overrides=["search.constraints=[latency_ms <= 8]"])
    two = f"search.evaluators=[{{name: latency}}, {{name: cost, latency_table: {table}}}]"
    with pytest.raises(RecipeError, match="latency and cost both report 'latency_ms'"):
        load_recipe(recipe, overrides=[two])


def test_a_run_has_its_scale(tmp_path: Path, recipe: Path, error_of: Callable[..., str]) -> None:
    (tmp_path / "run").mkdir()
    assert "is not a run" in error_of("latency", "build", "run")


def test_a_folder_in_the_place_of_a_table_is_known_before_anything_is_timed(
    recipe: Path, tmp_path: Path, error_of: Callable[..., str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def timed(*_: object) -> None:
        raise AssertionError("something was timed")

    monkeypatch.setattr("nasvid.run.latency.design", timed)
    said = error_of("latency", "build", str(recipe), "--out", str(tmp_path))
    assert "is a folder where a file belongs; move it away" in said
