"""The example of a custom space: run by a recipe's `plugins:`, and as a package."""

import json
import os
import shutil
import subprocess
import sys
import venv
from pathlib import Path

import pytest
from click.testing import CliRunner

from nasvid.cli.main import main

pytestmark = pytest.mark.slow

EXAMPLE = Path(__file__).parents[2] / "examples" / "custom_space"
SMALL = (
    "training.steps=4",
    "search.budget=6",
    "search.clips=4",
    "search.strategy.population=4",
    "front.subnets=2",
    "front.sampling_steps=2",
    "resolutions.16.batch=4",
)


def test_it_is_under_sixty_lines():
    assert len((EXAMPLE / "tiny_dit.py").read_text().splitlines()) < 60


def arguments(recipe: Path, out: Path) -> list[str]:
    options = [option for setting in SMALL for option in ("--set", setting)]
    return ["run", str(recipe), "--out", str(out), *options]


def assert_whole(out: Path) -> None:
    members = json.loads((out / "search/front.json").read_text())["members"]
    assert all(set(member["arch"]) >= {"width", "block.0.hidden"} for member in members)
    assert (out / "report.html").stat().st_size > 10_000
    assert len(list(out.glob("subnets/*/*/diffusion_pytorch_model.safetensors"))) == len(members)


def test_it_runs_through_a_recipes_plugins(tmp_path):
    words = arguments(EXAMPLE / "recipe.yaml", tmp_path / "run")
    result = CliRunner().invoke(main, words, catch_exceptions=False)
    assert result.exit_code == 0, result.output
    assert_whole(tmp_path / "run")


def test_it_runs_as_an_installed_package(tmp_path):
    """Installed with its entry point into an environment that sees this one's packages."""
    venv.create(tmp_path / "env", with_pip=False, symlinks=True)
    here = tmp_path / "env" / "lib" / f"python{sys.version_info[0]}.{sys.version_info[1]}"
    site = here / "site-packages"
    (site / "parent.pth").write_text(
        "\n".join(f"import site; site.addsitedir({p!r})" for p in sys.path if "site-packages" in p)
    )
    source = tmp_path / "source"
    shutil.copytree(EXAMPLE, source)
    pip = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--no-build-isolation"]
    subprocess.run([*pip, "--target", str(site), str(source)], check=True)
    text = (EXAMPLE / "recipe.yaml").read_text()
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text("\n".join(x for x in text.splitlines() if not x.startswith("plugins:")))
    env = os.environ | {"OMP_NUM_THREADS": "1"}
    command = [str(tmp_path / "env" / "bin" / "python"), "-m", "nasvid"]
    command += arguments(recipe, tmp_path / "run")
    done = subprocess.run(command, capture_output=True, text=True, env=env, check=False)
    assert done.returncode == 0, done.stderr
    assert_whole(tmp_path / "run")
