"""Which shards a pattern names: only what the user wrote is one, never the folder around it."""

import pytest

from nasvid.data.paths import shard_names
from nasvid.preflight import load_recipe

NAMES = ["exp[1]", "a*b", "cb{0..1}", "what?", "[x]{0..2}*"]


@pytest.fixture
def beside(tmp_path):
    """Make a folder of shards, and siblings that its name would match if it were a pattern."""

    def make(name: str):
        for each in (name, "exp1", "ab", "axb", "cb0", "cb1", "whatX", "x0"):
            (tmp_path / each / "shards").mkdir(parents=True)
            for number in range(2):
                (tmp_path / each / "shards" / f"{number:02d}.tar").touch()
        return tmp_path / name

    return make


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("pattern", ["shards/*.tar", "shards/{00..01}.tar"])
def test_a_folders_own_name_is_no_pattern(beside, name, pattern, monkeypatch):
    folder = beside(name)
    expected = tuple(str(folder / "shards" / f"{number:02d}.tar") for number in range(2))
    assert shard_names(pattern, folder, "train") == expected


@pytest.mark.parametrize("name", NAMES)
def test_nor_is_that_of_a_recipe(beside, name, tiny):
    folder = beside(name)
    shards = {"train": "shards/*.tar", "val": "shards/{00..01}.tar"}
    text = tiny(data={**shards, "frames": 4, "context_len": 4})
    (folder / "recipe.yaml").write_text(text)
    recipe = load_recipe(folder / "recipe.yaml").recipe
    expected = tuple(str(folder / "shards" / f"{number:02d}.tar") for number in range(2))
    elsewhere = folder.parent / "exp1"
    assert shard_names(recipe.data.train, elsewhere, "train") == expected
    assert shard_names(recipe.data.val, elsewhere, "val") == expected
