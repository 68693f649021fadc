"""The documentation's walk through a class that does not come with nasvid, run as it stands."""

import re
from pathlib import Path

import pytest
import yaml
from click.testing import CliRunner

from nasvid import plugins
from nasvid.cli.main import main
from nasvid.shapes import Domain, VideoShape
from nasvid.testing import SpaceConformance

pytestmark = pytest.mark.slow

PAGE = Path(__file__).parents[2] / "docs" / "spaces.md"


@pytest.fixture(scope="module")
def written(tiny, tmp_path_factory) -> Path:
    """The walk's two blocks as files."""
    text = PAGE.read_text().split("### Another diffusers class")[1]
    (name,) = re.findall(r"as `(\w+\.py)`:\n\n```python", text)
    code, recipe = (
        re.search(f"```{kind}\n(.*?)```", text, re.DOTALL)[1] for kind in ("python", "yaml")
    )
    assert len((code + recipe).splitlines()) < 40
    folder = tmp_path_factory.mktemp("walk")
    (folder / name).write_text(code)
    rest = tiny(
        name="skyreels",
        objective=None,
        space=None,
        resolutions={16: {"batch": 2}},
        training={"steps": 2, "learning_rate": 1e-3},
        search={"strategy": {"name": "random"}, "budget": 3, "clips": 2},
        front={
            "subnets": 2,
            "prompts": ["the digit 3 moves left"],
            "sampling_steps": 2,
            "evaluators": [],
        },
    )
    (folder / "recipe.yaml").write_text(recipe + rest)
    plugins.load_file(folder / name)
    return folder


class TestSkyReels(SpaceConformance):
    shape = VideoShape.square(8, frames=4, context_len=8)
    architectures = 4

    @pytest.fixture(scope="class")
    @classmethod
    def space(cls, written):
        section = yaml.safe_load((written / "recipe.yaml").read_text())["space"]
        space = plugins.load("spaces", section.pop("name"))
        return space(space.Config.model_validate(section), Domain(channels=3, context_dim=16))


def test_it_runs_from_the_recipe_to_the_report(written):
    arguments = ["run", str(written / "recipe.yaml"), "--out", str(written / "run")]
    result = CliRunner().invoke(main, arguments)
    assert result.exit_code == 0, result.output
    (model, *_) = sorted((written / "run" / "subnets").glob("*/"))
    config = (model / "transformer" / "config.json").read_text()
    assert '"_class_name": "SkyReelsV2Transformer3DModel"' in config
    assert (written / "run" / "report.html").exists()
