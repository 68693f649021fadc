"""Tab completion, as the shell asks for it."""

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from click.shell_completion import ShellComplete
from click.testing import CliRunner

from nasvid.cli.main import main
from nasvid.plugins import KINDS

RECIPES = Path(__file__).parents[2] / "recipes"


def completed(*words: object) -> list[str]:
    """What the last word may become."""
    *before, incomplete = map(str, words)
    shell = ShellComplete(main, {}, "nasvid", "_NASVID_COMPLETE")
    return [item.value for item in shell.get_completions(before, incomplete)]


@pytest.mark.parametrize(
    "command",
    [
        ["run"],
        ["plan"],
        ["bench", "train"],
        ["launch"],
        ["data", "encode"],
        ["latency", "build"],
        ["latency", "check", "table.json"],
    ],
)
def test_scales_are_those_of_the_recipe(command: list[str]) -> None:
    recipe = RECIPES / "sned_pixel.yaml"
    assert completed(*command, recipe, "--scale", "") == ["auto", "cpu", "gpu", "paper"]
    assert completed(*command, recipe, "--scale", "p") == ["paper"]


def test_without_a_readable_recipe_only_the_scale_that_all_have(tmp_path: Path) -> None:
    (tmp_path / "bad.yaml").write_text("scales: [\n")
    for recipe in ("missing.yaml", tmp_path / "bad.yaml"):
        assert completed("run", recipe, "--scale", "") == ["auto"]


def test_plugins_by_name_and_kind() -> None:
    assert completed("list", "s") == sorted(kind for kind in KINDS if kind.startswith("s"))
    assert completed("show", "warm") == ["warm_up"]
    assert completed("show", "samplers/w") == ["samplers/warm_up"]


@pytest.mark.parametrize("command", ["extract {} {}", "export {} {}", "sample {} --subnet {}"])
def test_subnets_are_the_fronts_before_all_others(tmp_path: Path, command: str) -> None:
    search = tmp_path / "search"
    search.mkdir()
    (search / "front.json").write_text('{"members": [{"id": "abc1"}, {"id": "abd2"}]}')
    (search / "record.jsonl").write_text('{"id": "abc1"}\n{"id": "b3"}\n{"id": "torn')
    for typed, found in {"": ["abc1", "abd2"], "abc": ["abc1"], "b": ["b3"], "x": []}.items():
        words = [typed if word == "{}" else word for word in command.split()[2:]]
        assert completed(command.split()[0], tmp_path, *words) == found
    assert completed("extract", tmp_path / "missing", "") == []


def test_a_completion_ends_without_an_error() -> None:
    words = {"_NASVID_COMPLETE": "zsh_complete", "COMP_WORDS": "nasvid lis", "COMP_CWORD": "1"}
    done = CliRunner().invoke(main, env=words, prog_name="nasvid")
    assert (done.exit_code, done.stderr) == (0, "")
    assert "list" in done.stdout


@pytest.mark.slow
def test_the_readmes_line_completes_in_bash(write_recipe: Callable[..., Path]) -> None:
    readme = (RECIPES.parent / "README.md").read_text()
    (line,) = (line for line in readme.splitlines() if "_NASVID_COMPLETE" in line)
    recipe = write_recipe({}, "scales:\n  small: {}\n  large: {}\n")
    ask = f"""
{line}
COMP_WORDS=(nasvid run {recipe} --scale s)
COMP_CWORD=4
_nasvid_completion nasvid
echo "${{COMPREPLY[@]}}"
"""
    path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    done = subprocess.run(
        ["bash", "-c", ask], env=os.environ | {"PATH": path}, capture_output=True, text=True
    )
    assert (done.stdout.split(), done.stderr) == (["small"], "")
