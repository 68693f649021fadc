"""Which captions samples show: the recipe's, or those of held-out clips."""

from collections.abc import Callable
from pathlib import Path

import pytest
import yaml

from nasvid.preflight import load_recipe
from nasvid.run.folder import begin
from nasvid.run.samples import prompts_of
from nasvid.run.session import Session

RECIPES = Path(__file__).parents[2] / "recipes"


def prompts(recipe: Path, run: Path, *sets: str) -> tuple[str, ...]:
    loaded = load_recipe(recipe, overrides=sets)
    return prompts_of(Session(begin(run, loaded), loaded))


def test_without_prompts_captions_of_held_out_clips_are_sampled(
    write_recipe: Callable[..., Path], tmp_path: Path, make_shard: Callable[..., Path]
) -> None:
    captions = ["a cat", "a cat", "a dog", "a cow", "a hen", "a pig"]
    val = make_shard("val.tar", captions)
    sets = ["front.prompts=null", f"data.val={val}"]
    assert prompts(write_recipe(), tmp_path / "a", *sets) == ("a cat", "a cow", "a pig")
    val = make_shard("one.tar", ["one only"])
    sets = ["front.prompts=null", f"data.val={val}"]
    assert prompts(write_recipe(), tmp_path / "b", *sets) == ("one only",)


def test_prompts_are_taken_as_given(write_recipe: Callable[..., Path], tmp_path: Path) -> None:
    assert prompts(write_recipe(), tmp_path / "a", "front.prompts=[a b, c]") == ("a b", "c")
    assert prompts(write_recipe(), tmp_path / "b", "front.prompts=[]") == ()


@pytest.mark.parametrize("recipe", sorted(RECIPES.glob("*.yaml")), ids=lambda path: path.stem)
def test_recipes_for_any_data_name_no_captions(recipe: Path) -> None:
    sections = yaml.safe_load(recipe.read_text())
    for each in (sections, *sections["scales"].values()):
        assert "prompts" not in each.get("front", {})
