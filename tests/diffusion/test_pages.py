"""The documentation's objective and text encoder, run as they stand on their pages."""

import re
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml
from click.testing import CliRunner

from nasvid import plugins
from nasvid.cli.main import main

DOCS = Path(__file__).parents[2] / "docs"
VECTORS = "".join(
    f"{word} {' '.join(str(((7 * i + 3 * k) % 5) - 2) for k in range(8))}\n"
    for i, word in enumerate(["a", "cat", "dog", "runs", "the", "digit", "3", "moves", "left"])
)


def written(page: str, folder: Path) -> str:
    """Write the page's plug-in to a folder; return its recipe's text."""
    text = (DOCS / f"{page}.md").read_text()
    blocks = re.findall(r"```yaml\n(.*?)```", text, re.DOTALL)
    recipe = next(block for block in blocks if "plugins:" in block)
    (name,) = yaml.safe_load(recipe)["plugins"]
    (folder / name).write_text(re.search(r"```python\n(.*?)```", text, re.DOTALL)[1])
    return recipe


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("pages")
    recipes = [yaml.safe_load(written(page, folder)) for page in ("objectives", "text_encoders")]
    (folder / "vectors.txt").write_text(VECTORS)
    merged = {**recipes[0], **recipes[1]}
    merged["plugins"] = [file for recipe in recipes for file in recipe["plugins"]]
    (folder / "sections.yaml").write_text(yaml.safe_dump(merged))
    for file in merged["plugins"]:
        plugins.load_file(folder / file)
    return folder


@pytest.mark.slow
def test_one_run_uses_both(folder: Path, tiny: Callable[..., str]) -> None:
    sections = yaml.safe_load((folder / "sections.yaml").read_text())
    front = {"subnets": 2, "prompts": ["the digit 3 moves left"], "sampling_steps": 2}
    recipe = tiny(**sections, front=front)
    (folder / "recipe.yaml").write_text(recipe)
    arguments = ["run", str(folder / "recipe.yaml"), "--out", str(folder / "run")]
    result = CliRunner().invoke(main, arguments)
    assert result.exit_code == 0, result.output
    resolved = yaml.safe_load((folder / "run" / "recipe.yaml").read_text())
    assert resolved["objective"]["name"] == "clean_clip"
    assert resolved["text"]["path"] == str(folder / "vectors.txt")
    (scheduler, *_) = (folder / "run" / "subnets").glob("*/scheduler/scheduler_config.json")
    assert '"prediction_type": "sample"' in scheduler.read_text()
    assert list((folder / "run").rglob("*.webp")) or list((folder / "run").rglob("*.mp4"))
