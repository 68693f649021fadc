"""The page on run folders: it names what stages write, and what it calls made again is."""

import re
import shutil
from collections.abc import Callable, Iterator
from fnmatch import fnmatch
from pathlib import Path

import pytest
from click.testing import CliRunner

from nasvid.cli.main import main
from nasvid.run.pipeline import RANK, SHARED, STAGES

PAGE = Path(__file__).parents[2] / "docs" / "runs.md"
FIRST = "checkpoints/step-00000001"


def rows() -> Iterator[tuple[str, str, str]]:
    """Yield each file of the page's table, its stage, and what the page says of deleting it."""
    for line in PAGE.read_text().splitlines():
        if line.startswith("| `"):
            files, stage, _, deleted = (cell.strip() for cell in line.strip("|").split(" | "))
            for file in re.findall(r"`([^`]+)`", files):
                yield file, stage.strip(), deleted


def pattern(file: str) -> str:
    return re.sub(r"ID|STRATEGY", "*", file) + ("*" if file.endswith("/") else "")


def test_the_page_names_each_stages_places() -> None:
    places = {(file.partition("/")[0], stage) for file, stage, _ in rows()}
    stages = (*STAGES, RANK)
    for stage in stages:
        for place in stage.writes:
            assert (place, stage.name) in places
    for place in SHARED:
        assert (place, "all") in places
    shared = {(place, stage.name) for place in SHARED for stage in stages}
    written = {(place, stage.name) for stage in stages for place in stage.writes}
    assert places <= written | shared | {(place, "all") for place in SHARED}


def run(recipe: Path, out: Path) -> None:
    result = CliRunner().invoke(main, ["run", str(recipe), "--out", str(out)])
    assert result.exit_code == 0, result.output


def files_in(folder: Path) -> dict[str, bytes]:
    found = (path for path in folder.rglob("*") if path.is_file())
    names = {path.relative_to(folder).as_posix(): path for path in found}
    return {name: path.read_bytes() for name, path in names.items() if not name.startswith(".")}


@pytest.mark.slow
def test_what_may_be_deleted_is_made_again(tiny: Callable[..., str], tmp_path: Path) -> None:
    recipe, out = tmp_path / "recipe.yaml", tmp_path / "run"
    front = {"subnets": 2, "sampling_steps": 2, "evaluators": [{"name": "cost"}]}
    front["prompts"] = ["the digit 3 moves left"]
    training = {"steps": 2, "checkpoint_every": 1, "keep_best": True}
    finetune = {"steps": 1, "subnets": 1}
    search = {"strategy": {"name": "random"}, "budget": 4, "clips": 2}
    recipe.write_text(tiny(front=front, training=training, finetune=finetune, search=search))
    run(recipe, out)
    before = files_in(out)
    known = [(pattern(file), deleted) for file, _, deleted in rows()]
    for name in before:
        assert any(fnmatch(name, each) for each, _ in known), f"{name} is not on the page"
    for each, deleted in known:
        if deleted.startswith("made again"):
            for path in out.glob(each):
                shutil.rmtree(path) if path.is_dir() else path.unlink()
    shutil.rmtree(out / FIRST)  # all but the last are free
    left = files_in(out)
    assert {name.partition("/")[0] for name in left} == {
        "recipe.yaml",
        "events.jsonl",
        "checkpoints",
        "train",
    }
    run(recipe, out)
    after = files_in(out)
    assert set(after) == {name for name in before if not name.startswith(FIRST)}
    differs = {name for name in after if after[name] != before[name]}
    assert differs <= {"environment.json", "events.jsonl", "report.html", "search/record.jsonl"}
