"""The example of a custom space: run by a recipe's `plugins:`, and as a package."""

import json
import shutil
import site
import subprocess
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner

from nasvid.cli.main import main
from tests.processes import Started, nasvid

pytestmark = pytest.mark.slow

EXAMPLE = Path(__file__).parents[2] / "examples" / "custom_space"
SMALL = (
    "training.steps=2",
    "search.budget=4",
    "search.clips=4",
    "front.subnets=2",
    "front.sampling_steps=2",
    "data.workers=0",
    "resolutions.16.batch=4",
)


def test_it_is_under_sixty_lines():
    assert len((EXAMPLE / "tiny_dit.py").read_text().splitlines()) < 60


def arguments(recipe: Path, out: Path, *more: str) -> list[str]:
    options = [option for setting in (*SMALL, *more) for option in ("--set", setting)]
    return ["run", str(recipe), "--out", str(out), *options]


def assert_whole(out: Path) -> None:
    members = json.loads((out / "search/front.json").read_text())["members"]
    assert all(set(member["arch"]) >= {"width", "block.0.hidden"} for member in members)
    assert (out / "report.html").stat().st_size > 10_000
    assert len(list(out.glob("subnets/*/*/diffusion_pytorch_model.safetensors"))) == len(members)


def test_it_runs_through_a_recipes_plugins(tmp_path):
    words = arguments(EXAMPLE / "recipe.yaml", tmp_path / "run", "search.strategy.population=2")
    result = CliRunner().invoke(main, words, catch_exceptions=False)
    assert result.exit_code == 0, result.output
    assert_whole(tmp_path / "run")


def run_with(packages: Path, *words: str) -> None:
    """Call the command line with one more folder of packages."""
    site.addsitedir(str(packages))
    nasvid(*words)


def test_it_runs_as_an_installed_package(tmp_path):
    """Installed with its entry point into one more folder of packages."""
    source = tmp_path / "source"
    shutil.copytree(EXAMPLE, source)
    pip = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--no-build-isolation"]
    subprocess.run([*pip, "--target", str(tmp_path / "packages"), str(source)], check=True)
    text = (EXAMPLE / "recipe.yaml").read_text()
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text("\n".join(x for x in text.splitlines() if not x.startswith("plugins:")))
    words = arguments(recipe, tmp_path / "run", "search.strategy={name: random}")
    process = Started(tmp_path / "said", run_with, tmp_path / "packages", *words)
    assert process.wait() == 0, process.said
    assert_whole(tmp_path / "run")
