"""A run's folder: one of another layout is refused, and a refused change leaves it alone."""

import json
from pathlib import Path

import pytest

from nasvid.errors import UserError
from nasvid.host.lock import LOCK
from nasvid.preflight import load_recipe
from nasvid.run.folder import LAYOUT, begin

VERBS = (
    "run recipe.yaml --out run",
    "run run/recipe.yaml --out run",
    "search run",
    "extract run",
    "export run abc --out x",
    "sample run --subnet abc --prompt a --out x.mp4",
    "report run",
)


@pytest.fixture
def folder(write_recipe, tmp_path, monkeypatch) -> Path:
    """A run that has just begun, in the working directory."""
    monkeypatch.chdir(tmp_path)
    return begin(Path("run"), load_recipe(write_recipe())).path


@pytest.mark.parametrize("verb", VERBS)
def test_a_run_of_the_first_version_is_refused(folder, error_of, verb):
    """It said no layout, its recipe had other keys, and the search's settings another file."""
    environment = folder / "environment.json"
    content = json.loads(environment.read_text())
    assert content.pop("layout") == LAYOUT
    environment.write_text(json.dumps(content))
    with (folder / "recipe.yaml").open("a") as file:
        file.write("judged: true\n")
    (folder / "search").mkdir()
    (folder / "search/judged_with.json").write_text("{}")
    message = error_of(*verb.split())
    assert message.startswith("run was made by an earlier version of nasvid")
    assert "\n" not in message


def test_a_run_of_a_later_version_is_refused(folder, error_of):
    path = folder / "environment.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"layout": LAYOUT + 1}))
    assert "a later version" in error_of("search", "run")


def test_a_refused_search_changes_nothing(folder, error_of):
    """`error_of` compares all files with those before."""
    (folder / LOCK).touch()  # the run has left it
    message = error_of("search", "run", "--set", "search.budget=9")
    assert "holds no intact checkpoint; train first with nasvid run run/recipe.yaml" in message
    assert message.endswith(" --out run")
    assert "the recipe has 9" in error_of("search", "run", "--set", "training.steps=9")


def test_a_run_killed_before_its_environment_is_written_is_resumed(folder):
    loaded = load_recipe(folder / "recipe.yaml")
    (folder / "environment.json").unlink()
    begin(folder, loaded)
    assert json.loads((folder / "environment.json").read_text())["layout"] == LAYOUT


def made(folder: Path, *names: str) -> None:
    """Write files as stages before the first checkpoint do."""
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text("made")


BEFORE_TRAINING = (
    "data/train.index.jsonl",
    "vae/config.json",
    "latents/cache.json",
    "train/space.json",
    "events.jsonl",
    "text/a.safetensors",
    "shards/a.tar",
    "notes.txt",
)


@pytest.mark.parametrize(
    ("change", "removed"),
    [
        ("data.val=embedded:digits", {"vae", "latents", "text", "train", "events.jsonl"}),
        ("seed=7", {"vae", "latents", "train", "events.jsonl"}),
        ("vae.cuts=2", {"vae", "latents", "train", "events.jsonl"}),
        ("text.dim=8", {"latents", "text", "train", "events.jsonl"}),
        ("training.steps=9", {"train", "events.jsonl"}),
        ("vae.cache=run", set()),
        ("search.budget=9", set()),
    ],
)
def test_a_run_without_a_checkpoint_may_change_anything(
    write_recipe, tmp_path, change, removed, capsys
):
    recipe = write_recipe(more="vae: {cache: elsewhere}\n")
    folder = begin(tmp_path / "run", load_recipe(recipe))
    made(folder.path, *BEFORE_TRAINING)
    begin(folder.path, load_recipe(recipe, overrides=[change]))
    left = {path.name for path in folder.path.iterdir()} - {"recipe.yaml", "environment.json"}
    assert left == {name.split("/")[0] for name in BEFORE_TRAINING} - {"data"} - removed
    said = capsys.readouterr().out
    assert all(name in said for name in removed)
    assert bool(said) == bool(removed)


def test_a_run_with_a_checkpoint_may_only_move_its_latents(write_recipe, tmp_path):
    recipe = write_recipe(more="vae: {cache: elsewhere}\n")
    folder = begin(tmp_path / "run", load_recipe(recipe))
    made(folder.path, *BEFORE_TRAINING, "checkpoints/step-00000001/a")
    begin(folder.path, load_recipe(recipe, overrides=["vae.cache=run"]))
    assert all((folder.path / name).exists() for name in BEFORE_TRAINING)
    for change in ("vae.cache=none", "seed=7"):
        with pytest.raises(UserError, match=change.split("=")[0]):
            begin(folder.path, load_recipe(recipe, overrides=[change]))
