"""An engine of another distribution, the one of docs/engines.md, and one that plans nothing."""

import json
import re
import shlex
import tomllib
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from click.testing import CliRunner

from nasvid.cli.main import main
from nasvid.plugins import registry

pytestmark = pytest.mark.slow

Write = Callable[..., Path]
Strange = Callable[..., str]
PAGE = Path(__file__).parents[2] / "docs" / "engines.md"
PLAIN = """
from half_sum import HalfSumUpdater
import torch
from nasvid.plugins import Need
from nasvid.training.engine import Engine

class Plain(Engine):
    \"\"\"Says nothing of itself.\"\"\"

    needs = (Need("not-a-package", "pip install not-a-package"),)

    def start(self, net, settings, ranks):
        return HalfSumUpdater(net, settings, ranks, torch.bfloat16)
"""


def install(folder: Path) -> None:
    """Put the page's package into a folder as pip leaves it, with an engine `plain` beside it."""
    blocks = re.findall(r"```(?:python|toml)\n# (\S+)\n(.*?)```", PAGE.read_text(), re.DOTALL)
    for name, text in blocks:
        (folder / name).write_text(text)
    (folder / "plain.py").write_text(PLAIN)
    project = tomllib.loads((folder / "pyproject.toml").read_text())["project"]
    info = folder / f"{project['name'].replace('-', '_')}-{project['version']}.dist-info"
    info.mkdir()
    (info / "METADATA").write_text(
        f"Metadata-Version: 2.1\nName: {project['name']}\nVersion: {project['version']}\n"
    )
    points = project["entry-points"]["nasvid.engines"] | {"plain": "plain:Plain"}
    lines = [f"{name} = {target}" for name, target in points.items()]
    (info / "entry_points.txt").write_text("\n".join(["[nasvid.engines]", *lines, ""]))


@pytest.fixture(scope="module")
def strangers(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("site")
    install(folder)
    return folder


@pytest.fixture
def strange(strangers: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Strange]:
    """Call nasvid where the stranger's distribution is installed; return what it printed."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(strangers)
    monkeypatch.setattr(registry, "_imported", set())
    registry._entry_points.cache_clear()

    def called(*arguments: object, code: int = 0) -> str:
        result = CliRunner().invoke(main, [*map(str, arguments)], prog_name="nasvid")
        assert result.exit_code == code, result.output
        return result.stdout if code == 0 else result.stderr

    yield called
    registry._entry_points.cache_clear()


def test_it_trains_a_run_on_two_ranks(
    strange: Strange, forked: Callable, write_recipe: Write, tmp_path: Path
) -> None:
    run = ["run", write_recipe(), "--out", tmp_path / "out"]
    for setting in (
        "resolutions={16: {batch: 4}}",
        "training.engine={name: half_sum, dtype: fp16}",
        "data.workers=0",
        "search.budget=2",
    ):
        run += ["--set", setting]
    statuses, said = forked(2, lambda: strange(*run))
    assert statuses == [0, 0], said
    assert (tmp_path / "out" / "report.html").is_file()


def test_it_is_planned_for_by_what_it_says(strange: Strange, write_recipe: Write) -> None:
    plan = ("plan", write_recipe(), "--devices", "4xH100")
    own = json.loads(strange(*plan, "--engine", "half_sum:dtype=fp16", "--json"))["engines"]
    torch = next(each for each in own if each["name"] == "torch")
    assert own[0]["name"] == "half_sum dtype fp16"
    assert own[0]["sent"] == torch["sent"] // 2
    assert own[0]["total"] == torch["total"]
    assert "half_sum" in strange(*plan), "beside the recipe's own, to compare"


def test_one_that_plans_nothing_is_unknown(strange: Strange, write_recipe: Write) -> None:
    plan = ("plan", write_recipe(), "--devices", "4xH100", "--engine", "plain")
    planned = json.loads(strange(*plan, "--json"))
    engine = planned["engines"][0]
    for item in ("optimizer", "ema", "update", "host", "sent", "total", "fits"):
        assert engine[item] is None, item
    assert engine["weights"] > 0
    assert planned["seconds"] is None
    assert {shape["most"] for shape in planned["shapes"]} == {None}
    shown = strange(*plan)
    assert "Engine plain does not report its memory, so it is unknown." in shown
    assert "Times are not shown: engine plain does not report what it sends." in shown
    auto = strange("plan", write_recipe(), "--engine", "plain")
    assert "unknown" in auto


def test_it_is_measured_beside_another(strange: Strange, write_recipe: Write) -> None:
    engines = ("--engine", "torch", "--engine", "half_sum", "--steps", 1, "--json")
    said = strange("bench", "train", write_recipe(), *engines)
    rows = json.loads(said[said.index("{") :])["rows"]
    assert {row["engine"] for row in rows} == {"torch", "half_sum"}


def test_its_own_launcher_is_printed(strange: Strange, write_recipe: Write) -> None:
    launch = ("launch", write_recipe(), "--devices-per-node", 2, "--print")
    line = shlex.split(strange(*launch, "--launcher", "half_sum"))
    assert line[:2] == ["env", "NCCL_ALGO=Ring"]
    said = strange(*launch, "--launcher", "plain", code=2)
    assert "engine plain has no launcher" in said


def test_what_it_needs_is_known_to_doctor_and_before_a_run(
    strange: Strange, write_recipe: Write
) -> None:
    found = {each["name"]: each for each in json.loads(strange("doctor", "--json"))}
    assert found["not-a-package"]["advice"] == "for engines/plain: pip install not-a-package"
    run = ("run", write_recipe(), "--set", "training.engine={name: plain}")
    assert (
        "'plain' needs not-a-package, which is not installed: pip install not-a-package"
        in strange(*run, code=2)
    )
