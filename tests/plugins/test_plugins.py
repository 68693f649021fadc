import subprocess
import sys
import textwrap
import tomllib
from importlib.metadata import entry_points
from pathlib import Path

import pytest

from nasvid import plugins
from nasvid.errors import UserError
from nasvid.plugins import PluginError
from nasvid.recipe.catalog import details, entries
from nasvid.sampler import Sampler, SamplerSection, Sandwich

ROOT = Path(__file__).parents[2]

FILE = """\
from nasvid.plugins import register
from nasvid.sampler import Uniform

@register("{kind}", "{name}")
class Mine(Uniform):
    \"\"\"One line about mine.

    More.\"\"\"
"""


@pytest.fixture(autouse=True)
def forget_files(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(plugins.registry, "_registered", {})


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "mine.py"


def test_what_is_installed_is_what_pyproject_declares() -> None:
    """An entry point appears only after installing again; this says when that was forgotten."""
    declared = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["entry-points"]
    installed = {group: {} for group in declared}
    for group in declared:
        for point in entry_points(group=group):
            if point.dist is not None and point.dist.name == "nasvid":
                installed[group][point.name] = point.value
    assert installed == declared


def test_every_plugin_imports_and_has_typed_documented_options() -> None:
    for entry in entries():
        _, options = details(f"{entry['kind']}/{entry['name']}")
        assert all(option["description"] for option in options), entry["name"]
        assert all(option["type"] not in ("", "anything") for option in options), entry["name"]


def test_naming_one_plugin_does_not_import_the_others() -> None:
    code = (
        "import sys; from nasvid.plugins import load; load('samplers', 'uniform');"
        "sys.exit('torch' in sys.modules or 'nasvid_spaces' in sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_a_file_registers_a_plugin_that_sections_can_name(file: Path) -> None:
    file.write_text(FILE.format(kind="samplers", name="mine"))
    plugins.load_file(file)
    assert plugins.available("samplers")["mine"].source == str(file)
    assert isinstance(SamplerSection(name="mine").make(), Sampler)
    plugins.load_file(file)


def test_a_name_has_one_plugin(file: Path, tmp_path: Path) -> None:
    file.write_text(FILE.format(kind="samplers", name="mine"))
    plugins.load_file(file)
    other = tmp_path / "other.py"
    other.write_text(FILE.format(kind="samplers", name="mine"))
    with pytest.raises(PluginError, match=rf"/mine is registered by both {file} and {other}"):
        plugins.load_file(other)
    assert plugins.available("samplers")["mine"].source == str(file)


def test_a_file_cannot_take_the_name_of_an_installed_plugin(file: Path) -> None:
    file.write_text(FILE.format(kind="samplers", name="sandwich"))
    with pytest.raises(PluginError, match=r"/sandwich in .*mine\.py has the same name as .*nasvid"):
        plugins.load_file(file)
    assert plugins.load("samplers", "sandwich") is Sandwich


def test_a_name_is_free_in_another_kind_but_then_shown_by_kind(file: Path) -> None:
    file.write_text(FILE.format(kind="strategies", name="sandwich"))
    plugins.load_file(file)
    with pytest.raises(UserError, match="samplers/sandwich or strategies/sandwich"):
        details("sandwich")
    assert details("strategies/sandwich")[0]["text"].startswith("One line about mine.")


def test_a_file_that_fails_can_be_mended_and_loaded_again(file: Path) -> None:
    good = FILE.format(kind="samplers", name="mine")
    file.write_text(good + "\nraise RuntimeError('half way')\n")
    with pytest.raises(PluginError, match=r"mine\.py fails to import: RuntimeError: half way"):
        plugins.load_file(file)
    assert "mine" not in plugins.available("samplers")
    file.write_text(good)
    plugins.load_file(file)
    assert "mine" in plugins.available("samplers")


def test_a_class_without_config_is_refused_by_name(file: Path) -> None:
    text = """
        from nasvid.plugins import register

        @register("samplers", "mine")
        class Mine:
            pass
        """
    file.write_text(textwrap.dedent(text))
    with pytest.raises(PluginError, match=r"/mine .* has no Config"):
        plugins.load_file(file)


def test_an_installed_plugin_that_fails_to_import_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A stranger's distribution, as pip leaves it: a module and its metadata."""
    (tmp_path / "strange.py").write_text("import nothing_of_that_name\n")
    info = tmp_path / "strange_samplers-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: strange-samplers\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text("[nasvid.samplers]\nodd = strange:Odd\n")
    monkeypatch.syspath_prepend(tmp_path)
    plugins.registry._entry_points.cache_clear()
    try:
        assert plugins.available("samplers")["odd"].source == "strange-samplers"
        with pytest.raises(PluginError, match=r"/odd, .*strange-samplers.*nothing_of_that_name"):
            plugins.load("samplers", "odd")
        (info / "entry_points.txt").write_text("[nasvid.samplers]\nuniform = strange:Odd\n")
        plugins.registry._entry_points.cache_clear()
        with pytest.raises(PluginError, match=r"declared by both .*strange-samplers"):
            plugins.load("samplers", "uniform")
    finally:
        plugins.registry._entry_points.cache_clear()


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ("class Options:\n    x: int = 1", "no Config"),
        ("class Options(Config):\n    name: str = 'bob'", "option 'name'"),
    ],
    ids=["not nasvid's", "takes the plug-in's name"],
)
def test_options_that_no_recipe_could_give_are_refused(
    tmp_path: Path, options: str, says: str
) -> None:
    file = tmp_path / "mine.py"
    file.write_text(
        "from nasvid import Config, Sampler, register\n"
        f"{options}\n"
        "@register('samplers', 'mine')\n"
        "class Mine(Sampler):\n"
        "    Config = Options\n"
        "    def plan(self, step): ...\n"
    )
    with pytest.raises(PluginError, match=says):
        plugins.load_file(file)
