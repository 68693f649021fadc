import re
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml

from nasvid import plugins
from nasvid.cli.engine_option import read_engine
from nasvid.preflight import RecipeError, load_recipe, to_yaml, write_resolved
from tools.recipe_reference import KIND_TITLES, PAGE, render

Write = Callable[..., Path]

SCALES = """\
scales:
  small:
    training: {steps: 4}
  middle:
    resolutions:
      32: {batch: 3}
    search: {strategy: {name: evolutionary, population: 6}, objectives: [params]}
  large:
    training: {steps: 9, learning_rate: 3e-4, device: cuda:99}
    data: {frames: 8}
"""


def test_a_scale_merges_sections_key_by_key(write_recipe: Write) -> None:
    plain = load_recipe(write_recipe()).recipe
    large = load_recipe(write_recipe(more=SCALES), scale="large").recipe
    assert (large.training.steps, large.training.learning_rate) == (9, 3e-4)
    assert large.data == plain.data.model_copy(update={"frames": 8})
    assert large.space == plain.space
    assert large.search == plain.search


def test_a_scale_replaces_resolutions_lists_and_renamed_plugins(write_recipe: Write) -> None:
    path = write_recipe({"name: random": "name: random\n    metric: macs"}, SCALES)
    middle = load_recipe(path, scale="middle").recipe
    assert set(map(str, middle.resolutions)) == {"32"}
    assert middle.search.objectives == ("params",)
    assert middle.search.strategy.name == "evolutionary"
    assert middle.search.strategy.options["population"] == 6
    assert middle.search.budget == 8


def test_a_scale_merges_the_options_of_the_same_plugin(write_recipe: Write) -> None:
    path = write_recipe(more="scales: {deep: {space: {blocks_per_level: 3}}}")
    options = load_recipe(path, scale="deep").recipe.space.options
    assert options["blocks_per_level"] == 3
    assert options["widths"] == [[8, 16], [16, 32]]


def test_every_scale_is_validated_whichever_is_used(write_recipe: Write) -> None:
    path = write_recipe(more=SCALES.replace("frames: 8", "frame: 8"))
    with pytest.raises(RecipeError, match=r"frame: .*did you mean 'frames'\? \(at scale 'large'\)"):
        load_recipe(path, scale="small")


def test_auto_takes_the_last_scale_whose_device_is_here(write_recipe: Write) -> None:
    loaded = load_recipe(write_recipe(more=SCALES))
    assert loaded.scale == "middle"
    assert re.fullmatch(
        r"scale middle: training needs about 0\.\d+ GB; (cpu|cuda) has [\d.]+ GB", loaded.why
    )


def test_auto_takes_the_first_scale_where_none_fits(write_recipe: Write) -> None:
    overrides = ["training.device=cuda:99"]
    loaded = load_recipe(write_recipe(more=SCALES), scale="auto", overrides=overrides)
    assert loaded.scale == "small"
    assert "cuda:99" in loaded.why


def test_a_recipe_without_scales_has_none(write_recipe: Write) -> None:
    loaded = load_recipe(write_recipe())
    assert (loaded.scale, loaded.why) == (None, "")


@pytest.mark.parametrize(
    ("option", "section", "key", "value"),
    [
        ("training.steps=11", "training", "steps", 11),
        ("training.learning_rate=1e-3", "training", "learning_rate", 1e-3),
        ("training.betas=[0.8, 0.9]", "training", "betas", (0.8, 0.9)),
        ("data.val=[a.tar, b.tar]", "data", "val", ["{here}/a.tar", "{here}/b.tar"]),
        ("training.lr_schedule=constant", "training", "lr_schedule", "constant"),
        ("search.objectives=[macs@32]", "search", "objectives", ("macs@32",)),
        ("front.prompts=['a dog: it runs']", "front", "prompts", ("a dog: it runs",)),
    ],
)
def test_set_reads_its_value_as_yaml(
    write_recipe: Write, option: str, section: str, key: str, value: object
) -> None:
    path = write_recipe()
    recipe = load_recipe(path, overrides=[option]).recipe
    if isinstance(value, list):
        value = [text.format(here=Path.cwd()) for text in value]
    assert getattr(getattr(recipe, section), key) == value


def test_set_comes_after_the_scale_and_in_order(write_recipe: Write) -> None:
    path = write_recipe(more=SCALES)
    sets = ["training.steps=20", "training.steps=21"]
    assert load_recipe(path, scale="small", overrides=sets).recipe.training.steps == 21


def test_set_gives_what_the_file_lacks_at_every_scale(write_recipe: Write) -> None:
    path = write_recipe({"  steps: 2": "  lr_warmup: 0"}, SCALES.replace("steps: 9, ", ""))
    with pytest.raises(RecipeError, match=r"training\.steps: missing"):
        load_recipe(path, scale="small")
    loaded = load_recipe(path, scale="small", overrides=["training.steps=3"])
    assert loaded.recipe.training.steps == 3


def test_set_corrects_what_is_wrong_in_the_file(write_recipe: Write) -> None:
    path = write_recipe({"steps: 2": "steps: two", "budget: 8": "budget: -8"})
    sets = ["training.steps=3", "search.budget=4"]
    with pytest.raises(RecipeError, match=r"recipe\.yaml:\d+: search\.budget"):
        load_recipe(path, overrides=sets[:1])
    assert load_recipe(path, overrides=sets).recipe.search.budget == 4


def test_a_scale_that_is_not_used_may_not_suit_a_set_but_is_valid_itself(
    write_recipe: Write,
) -> None:
    sets = ["search.objectives=['macs@16']"]
    assert load_recipe(write_recipe(more=SCALES), scale="small", overrides=sets)
    with pytest.raises(RecipeError, match="16 is not a resolution"):
        load_recipe(write_recipe(more=SCALES), scale="middle", overrides=sets)


def test_set_changes_an_entry_of_a_list(write_recipe: Write) -> None:
    path = write_recipe(more="  evaluators: [{name: latency}, {name: cost}]")
    sets = ["front.evaluators[0].repeats=5", "front.evaluators.1.name=loss"]
    first, second = load_recipe(path, overrides=sets).recipe.front.evaluators
    assert first.options["repeats"] == 5
    assert second.name == "loss"


@pytest.mark.parametrize("quote", "\"'")
def test_set_quotes_a_key_with_a_dot(write_recipe: Write, quote: str) -> None:
    option = f"data.{quote}a.b=c{quote}=1"
    with pytest.raises(RecipeError, match=re.escape(f"--set {option}: data.a.b=c: unknown")):
        load_recipe(write_recipe(), overrides=[option])


@pytest.mark.parametrize(
    ("sets", "guilty", "said"),
    [
        (["vae.path=x", "vae.train={}", "seed=3"], "vae.train={}", "path 'x' loads a VAE"),
        (["seed=3", "search.budget=1", "name=x"], "search.budget=1", "front.subnets: 2 is more"),
        (["space.head_dim=7"], "space.head_dim=7", "is not a multiple of head_dim 7"),
        (["front.evaluators[9].name=x"], "front.evaluators[9].name=x", "has entries 0 to 0"),
    ],
)
def test_a_problem_that_an_option_makes_elsewhere_names_the_option(
    write_recipe: Write, sets: list[str], guilty: str, said: str
) -> None:
    path = write_recipe(more="  evaluators: [{name: latency}]")
    with pytest.raises(RecipeError, match=re.escape(said)) as raised:
        load_recipe(path, overrides=sets)
    assert str(raised.value).startswith(f"--set {guilty}: ")


def test_a_problem_of_the_file_is_not_blamed_on_an_option_that_uncovers_it(
    write_recipe: Write,
) -> None:
    path = write_recipe({"steps: 2": "steps: two", "subnets: 2": "subnets: 9"})
    with pytest.raises(RecipeError, match=r"^\S+recipe\.yaml:\d+: front\.subnets: 9 is more"):
        load_recipe(path, overrides=["training.steps=3"])


def test_set_changes_one_resolution_or_replaces_all(write_recipe: Write) -> None:
    path = write_recipe()
    one = load_recipe(path, overrides=["resolutions.16.batch=5"]).recipe
    every = load_recipe(path, overrides=["resolutions={16: {batch: 5}}"]).recipe
    batches = {str(each): section.batch for each, section in one.resolutions.items()}
    assert batches == {"16": 5, "32": "auto"}
    assert set(map(str, every.resolutions)) == {"16"}


def test_resolutions_of_any_shape_are_read_changed_and_written(
    write_recipe: Callable[..., Path], tmp_path: Path
) -> None:
    path = write_recipe({"32: {batch: auto}": "16x24: {batch: auto}\n  16x24x1: {batch: 8}"})
    recipe = load_recipe(path, overrides=["resolutions.16x24x1.batch=9"]).recipe
    batches = {str(each): section.batch for each, section in recipe.resolutions.items()}
    assert batches == {"16": 2, "16x24": "auto", "16x24x1": 9}
    shapes = {str(each): str(shape) for each, shape in recipe.shapes().items()}
    assert shapes == {"16": "4x16x16", "16x24x1": "1x16x24", "16x24": "4x16x24"}
    write_resolved(recipe, tmp_path / "again.yaml")
    assert load_recipe(tmp_path / "again.yaml").recipe == recipe


def test_set_of_another_plugin_drops_the_options_of_the_one_before(write_recipe: Write) -> None:
    path = write_recipe({"name: random": "name: evolutionary\n    population: 6"})
    recipe = load_recipe(path, overrides=["search.strategy.name=random"]).recipe
    assert recipe.search.strategy.name == "random"
    assert "population" not in recipe.search.strategy.options
    with pytest.raises(RecipeError, match="population"):
        load_recipe(path, overrides=["search.strategy.name=random", "search.strategy.population=6"])


def test_the_resolved_recipe_is_read_back_equal(write_recipe: Write, tmp_path: Path) -> None:
    changes = [
        "front.evaluators=[]",
        "training.betas=[0.5, 0.6]",
        "search.constraints=['params <= 1e9', 'loss@32 < 3']",
        "sampler={name: uniform}",
        "front.prompts=['ein Hündchen', 'yes', '1e3']",
        "data.train=shards/{000..003}.tar",
    ]
    path = write_recipe(more=SCALES)
    recipe = load_recipe(path, scale="middle", overrides=changes).recipe
    elsewhere = tmp_path / "run" / "recipe.yaml"
    write_resolved(recipe, elsewhere)
    assert load_recipe(elsewhere).recipe == recipe
    assert recipe.data.train == f"{Path.cwd()}/shards/{{000..003}}.tar"


def test_a_path_is_relative_to_where_it_was_written(
    write_recipe: Write, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In a file to the file, on the command line to the current folder, in a plug-in's options."""
    path, here = write_recipe(), tmp_path / "here [1]"
    here.mkdir()
    for folder in (tmp_path, here):
        (folder / "vae").mkdir()
        (folder / "e.json").write_text("{}")
    monkeypatch.chdir(here)
    text = path.read_text().replace("data: {", "data: {train: a.tar, val: [a.tar], cache: c, ")
    engine = {"name": "deepspeed", "config": "e.json"}
    vae = "vae: {path: vae, cache: l}\n"
    path.write_text(text.replace("steps: 2", f"steps: 2\n  engine: {engine}") + vae)
    sets = ["data={train: a.tar, val: [a.tar], cache: c, frames: 4}", "vae={path: vae, cache: l}"]
    sets += ["training.engine.config=e.json"]
    for overrides, at in ([], tmp_path), (sets, here):
        recipe = load_recipe(path, overrides=overrides).recipe
        assert recipe.data.train == f"{at}/a.tar"
        assert recipe.data.val == [f"{at}/a.tar"]
        assert recipe.data.cache == f"{at}/c"
        assert recipe.vae is not None
        assert (recipe.vae.path, recipe.vae.cache) == (f"{at}/vae", f"{at}/l")
        assert recipe.training.engine.options["config"] == f"{at}/e.json"
    words = ["data={train: embedded, cache: run, val: 's3://b/a.tar'}", "vae.cache=none"]
    recipe = load_recipe(path, overrides=words).recipe
    assert (recipe.data.train, recipe.data.cache) == ("embedded", "run")
    assert recipe.data.val == "s3://b/a.tar"
    assert read_engine("deepspeed:config=e.json", recipe).options["config"] == f"{here}/e.json"
    monkeypatch.setenv("HOME", str(here))
    home = [
        "data={train: ~/a.tar, val: ['~/b/*.tar'], embeddings: ~/e, cache: run}",
        "vae.path=~/vae",
    ]
    recipe = load_recipe(path, overrides=home).recipe
    assert (recipe.data.train, recipe.data.val) == (f"{here}/a.tar", [f"{here}/b/*.tar"])
    assert (recipe.data.embeddings, recipe.vae and recipe.vae.path) == (f"{here}/e", f"{here}/vae")


def test_a_plugin_file_named_on_the_command_line_is_in_the_current_folder(
    write_recipe: Write, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path, here = write_recipe(), tmp_path / "here"
    here.mkdir()
    (here / "bare.py").write_text("")
    monkeypatch.chdir(here)
    assert load_recipe(path, overrides=["plugins=[bare.py]"]).recipe.plugins == (
        str(here / "bare.py"),
    )


def test_the_resolved_recipe_says_every_default_of_every_plugin(write_recipe: Write) -> None:
    resolved = yaml.safe_load(to_yaml(load_recipe(write_recipe()).recipe))
    assert resolved["sampler"]["inner"]["inner"] == {"name": "cost_uniform", "metric": "params"}
    assert resolved["space"]["hidden_ratios"] == [0.5, 1.0]
    assert resolved["front"]["evaluators"][0]["repeats"] > 0


def test_a_local_text_encoder_is_beside_the_recipe_and_a_hub_name_stays(
    write_recipe: Write,
) -> None:
    hub = write_recipe({"{name: hash, dim: 16}": "{name: t5, path: some/model, dim: 16}"})
    assert load_recipe(hub).recipe.text.options["path"] == "some/model"
    (hub.parent / "some" / "model").mkdir(parents=True)
    assert load_recipe(hub).recipe.text.options["path"] == str(hub.parent / "some/model")


def test_a_section_equals_one_with_its_defaults_written_out(write_recipe: Write) -> None:
    short = load_recipe(write_recipe()).recipe
    long = load_recipe(write_recipe(more="sampler: {name: warm_up, schedule: linear}")).recipe
    assert short == long


def test_a_tree_knows_the_line_of_a_setting_or_of_what_is_around_it(write_recipe: Write) -> None:
    path = write_recipe(more="scales:\n  big:\n    training:\n      steps: 7\n")
    loaded = load_recipe(path, scale="big", overrides=["seed=3"])
    lines, place = path.read_text().splitlines(), loaded.tree.place
    assert place(["training", "steps"]) == f"{path}:{lines.index('      steps: 7') + 1}"
    assert place(["search", "clips"]) == f"{path}:{lines.index('search:') + 1}"
    assert place(["resolutions", 32, "batch"]) == f"{path}:4"
    assert place(["seed"]) == "--set seed=3"


RECIPES = sorted((Path(__file__).parents[2] / "recipes").glob("*.yaml"))


SLOW = {"wan": [pytest.mark.slow]}  # its blocks are many, and wide


@pytest.mark.parametrize(
    "path", [pytest.param(each, id=each.stem, marks=SLOW.get(each.stem, [])) for each in RECIPES]
)
def test_recipes_that_ship_are_valid_at_every_scale(path: Path) -> None:
    scales = yaml.safe_load(path.read_text())["scales"]
    assert list(scales) == ["cpu", "gpu", "paper"]
    assert load_recipe(path, scale="cpu").recipe.name == path.stem, "which reads all scales"


def test_the_reference_says_what_the_schema_says() -> None:
    assert PAGE.read_text() == render(), "run make docs"


def test_the_reference_has_every_option_of_every_plugin() -> None:
    page = PAGE.read_text()
    chapters = {}
    for kind in plugins.KINDS:
        chapters[kind] = page.partition(f"\n## {KIND_TITLES[kind]}\n")[2].partition("\n## ")[0]
    assert all(chapters.values())
    for kind, chapter in chapters.items():
        shown = dict(part.split("`\n", 1) for part in chapter.split("\n### `")[1:])
        known = {name: o for name, o in plugins.available(kind).items() if o.source == "nasvid"}
        assert list(shown) == list(known)
        for name, text in shown.items():
            options = plugins.load(kind, name).Config.model_fields
            assert all(f"| `{option}` |" in text for option in options), f"{kind}/{name}"


@pytest.mark.parametrize(
    ("old", "new"),
    [("null", r"evaluators: \[\]"), ("{name: latency}", r"evaluators: \[\{name: latency\}\]")],
)
def test_a_latency_of_the_front_is_refused_with_what_to_write(
    write_recipe: Write, old: str, new: str
) -> None:
    path = write_recipe(more=f"  latency: {old}\n")
    with pytest.raises(RecipeError, match=f"front.latency: .*front.{new}"):
        load_recipe(path)
