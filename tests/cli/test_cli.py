import json
import os
import re
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import click
import pytest
from click.testing import CliRunner

from nasvid import __version__, plugins
from nasvid.cli.main import main
from nasvid.errors import Interrupted
from nasvid.host import machine
from nasvid.preflight import load_recipe

Write = Callable[..., Path]
HEAVY = ("torch", "pydantic", "diffusers", "numpy", "av", "rich")


def nasvid(*arguments: object, code: int = 0) -> str:
    """Run a verb in this process and return what it prints."""
    result = CliRunner().invoke(main, [str(argument) for argument in arguments], prog_name="nasvid")
    assert result.exit_code == code, result.output
    return result.stdout


def imported_by(*arguments: str) -> set[str]:
    """Return which heavy packages a verb imports, in a process of its own."""
    code = (
        "import sys\n"
        "from nasvid.cli.main import main\n"
        f"try: main({list(arguments)!r}, prog_name='nasvid')\n"
        "except SystemExit: pass\n"
        f"print('IMPORTED', *[name for name in {HEAVY!r} if name in sys.modules])"
    )
    result = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    )
    return set(result.stdout.partition("IMPORTED")[2].split())


def test_help_imports_nothing_heavy() -> None:
    assert imported_by("--help") == set()
    assert imported_by("run", "--help") == set()
    assert imported_by("--version") == set()


def test_list_reads_docstrings_without_importing_a_plugin() -> None:
    assert imported_by("list", "--json") == set()
    assert imported_by("list") <= {"rich"}


@pytest.mark.slow
def test_python_m_nasvid_is_nasvid() -> None:
    script = Path(sys.executable).with_name("nasvid")
    for arguments in (["--help"], ["show", "sandwich"], ["nonsense"]):
        by_module, by_script = (
            subprocess.run([*command, *arguments], capture_output=True, text=True, check=False)
            for command in ([sys.executable, "-m", "nasvid"], [str(script)])
        )
        assert (by_module.stdout, by_module.stderr) == (by_script.stdout, by_script.stderr)
        assert by_module.returncode == by_script.returncode


def test_version() -> None:
    assert nasvid("--version") == f"nasvid, version {__version__}\n"


def test_every_verb_has_help_and_says_what_it_does() -> None:
    lines = nasvid("--help").partition("Commands:\n")[2].splitlines()
    verbs = main.list_commands(click.Context(main))
    assert [line.split()[0] for line in lines] == verbs
    assert {*main.commands, "nni"} == set(verbs)
    assert not [line for line in lines if line.endswith("...")], "cut off by click"
    for verb in verbs:
        assert nasvid(verb, "--help").startswith(f"Usage: nasvid {verb} ")


def test_list_has_every_plugin_with_its_first_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(plugins.registry, "_registered", {})
    entries = json.loads(nasvid("list", "--json"))
    listed = {(entry["kind"], entry["name"]) for entry in entries}
    assert listed == {(kind, name) for kind in plugins.KINDS for name in plugins.available(kind)}
    for entry in entries:
        doc = plugins.load(entry["kind"], entry["name"]).__doc__
        assert doc is not None
        assert entry["summary"] == doc.partition("\n")[0]
    shown = nasvid("list")
    assert all(entry["summary"] in shown for entry in entries)


def test_the_plugins_of_a_recipe_are_listed_and_shown(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(plugins.registry, "_registered", {})
    (tmp_path / "mine.py").write_text(
        "from nasvid import Sampler, register\n"
        "@register('samplers', 'mine')\n"
        "class Mine(Sampler):\n"
        "    'Draws as I like.'\n"
        "    def plan(self, step): return step.plan([step.space.largest])\n"
    )
    recipe = tmp_path / "half.yaml"
    recipe.write_text("plugins: [mine.py]\nname: not whole yet")
    listed = json.loads(nasvid("list", "samplers", "--recipe", recipe, "--json"))
    assert ("mine", "Draws as I like.") in [(each["name"], each["summary"]) for each in listed]
    assert "Draws as I like." in nasvid("show", "mine", "--recipe", recipe)


def test_list_of_a_kind_has_only_that_kind() -> None:
    entries = json.loads(nasvid("list", "samplers", "--json"))
    assert {entry["kind"] for entry in entries} == {"samplers"}


def test_show_has_every_option_with_its_type_bounds_and_default() -> None:
    shown = json.loads(nasvid("show", "warm_up", "--json"))
    options = {option["name"]: option for option in shown["options"]}
    assert list(options) == ["start", "end", "schedule", "metric", "inner"]
    assert options["end"]["type"] == "number > 0, <= 1"
    assert options["end"]["default"] == 0.5
    assert options["schedule"]["type"] == "`linear` or `cosine`"
    assert options["inner"]["default"]["name"] == "sandwich"
    assert nasvid("show", "samplers/warm_up", "--json") == nasvid("show", "warm_up", "--json")


def test_show_says_which_options_are_required() -> None:
    options = {o["name"]: o for o in json.loads(nasvid("show", "clip", "--json"))["options"]}
    assert options["path"]["required"]
    assert not options["subfolder"]["required"]
    assert "required" in nasvid("show", "clip")


def test_doctor_knows_this_machine() -> None:
    found = {finding["name"]: finding for finding in json.loads(nasvid("doctor", "--json"))}
    assert found["python"]["found"] == sys.version.split()[0]
    assert {"torch", "memory", "disk", "decoders", "encoder", "transformers"} <= set(found)
    assert all(finding["advice"] for finding in found.values() if not finding["ok"])
    assert not [name for name, finding in found.items() if finding["ok"] and finding["advice"]]
    assert all(name in nasvid("doctor") for name in found)


def test_little_shared_memory_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(machine, "LOW_SHARED", 0)
    assert machine.low_shared_memory() == ""
    monkeypatch.setattr(machine, "LOW_SHARED", 1 << 62)
    assert re.match(r"/dev/shm has only .*batches that do not fit", machine.low_shared_memory())
    (found,) = [f for f in json.loads(nasvid("doctor", "--json")) if f["name"] == "shared memory"]
    assert not found["ok"]
    assert "--shm-size=8g" in found["advice"]


def test_dry_run_prints_the_recipe_that_would_run_and_writes_nothing(
    write_recipe: Write, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = write_recipe()
    monkeypatch.chdir(path.parent)
    text = nasvid("run", path, "--set", "training.steps=77", "--dry-run")
    assert list(path.parent.iterdir()) == [path]
    printed = path.with_name("printed.yaml")
    printed.write_text(text)
    expected = load_recipe(path, overrides=["training.steps=77"]).recipe
    assert load_recipe(printed).recipe == expected


def test_plan_prints_what_deepspeed_is_given(write_recipe: Write) -> None:
    arguments = ("plan", write_recipe(), "--engine-config", "--set", "training.clip_norm=0.5")
    given = json.loads(nasvid(*arguments, "--engine", "deepspeed:zero=1,offload=true"))
    assert given["gradient_clipping"] == 0.5
    zero = {"stage": 1, "offload_optimizer": {"device": "cpu"}}
    assert given["zero_optimization"] == zero
    assert json.loads(nasvid(*arguments)) == {}


def test_plan_prints_tables_or_json(write_recipe: Write) -> None:
    arguments = ("plan", write_recipe(), "--devices", "2xH100", "--engine", "deepspeed")
    planned = json.loads(nasvid(*arguments, "--json"))
    assert planned["devices"]["count"] == 2
    assert planned["engines"][0]["name"] == "deepspeed zero 2"
    shown = nasvid(*arguments)
    assert "each of 2 devices" in shown
    assert "deepspeed zero 1 offload" in shown
    assert "989 TFLOP/s in bf16, 35% of it reached; 450 GB/s sent" in shown
    assert "Times are not shown: give --flops" in nasvid("plan", write_recipe(), "--devices", "8GB")


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--engine", "torch:zero=2"], "has no option 'zero'; use one of overlap"),
        (["--engine", "deepspeed:zer=2"], "no option 'zer'; did you mean 'zero'"),
        (["--engine", "deepspeed:zero"], "'zero' has no value; write deepspeed:zero=VALUE"),
        (["--engine", "deepspeed:zero=[1"], "--engine deepspeed:zero=[1: zero: not YAML"),
        (["--engine", "deepspeed:zero=two"], 'zero: must be a whole number, not "two"'),
        (["--engine", "deepspeed:offload=7"], "offload: must be true or false, not 7"),
        (["--engine", ""], "--engine '' names no engine; use one of deepspeed, torch"),
        (["--engine", "deepspeed:zero=3"], "--engine deepspeed:zero=3: zero: ZeRO 3 is not"),
        (["--engine", "deepspeed:zero=0,offload=true"], "offload needs a partitioned state"),
        (["--engine", "depspeed"], "did you mean 'deepspeed'"),
        (["--flops", "1e12"], "add --devices, for example 8x80GB"),
        (["--devices", "8xH1000"], "'H1000' is not a known card; did you mean 'H100'"),
        (["--devices", "8", "--bandwidth", "fast"], "--bandwidth fast: write a positive number"),
    ],
)
def test_what_plan_is_told_wrong_is_one_message(
    options: list[str], said: str, write_recipe: Write
) -> None:
    result = CliRunner().invoke(main, ["plan", str(write_recipe()), *options])
    assert result.exit_code == 2
    assert said in result.stderr


@pytest.mark.parametrize(
    ("error", "code", "said"),
    [
        (Interrupted(signal.SIGTERM, "nasvid run x"), 143, "Resume with: nasvid run x"),
        (Interrupted(signal.SIGINT, "nasvid run x"), 130, "Resume with: nasvid run x"),
        (KeyboardInterrupt(), 130, "Interrupted"),
        (OSError(28, "No space left on device", "/disk/x"), 2, "error: /disk/x: No space left"),
    ],
)
def test_exit_codes(
    error: BaseException, code: int, said: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(kind: object) -> None:
        raise error

    monkeypatch.setattr("nasvid.recipe.catalog.entries", fail)
    result = CliRunner().invoke(main, ["list"])
    assert result.exit_code == code
    assert said in result.stderr
    assert result.stdout == ""


def test_a_bug_is_not_hidden(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(kind: object) -> None:
        raise ValueError("a bug, not a UserError")

    monkeypatch.setattr("nasvid.recipe.catalog.entries", fail)
    result = CliRunner().invoke(main, ["list"])
    assert isinstance(result.exception, ValueError)


def test_a_full_disk_at_an_unforeseen_place_is_one_line(monkeypatch) -> None:
    monkeypatch.setattr(
        "nasvid.recipe.catalog.entries", lambda *_: Path("/dev/full").write_text("x")
    )
    result = CliRunner().invoke(main, ["list"])
    assert result.exit_code == 2
    said = "error: A file cannot be written: No space left on device; free some space and try again"
    assert result.stderr == f"{said}\n"


def test_a_reader_that_goes_away_is_no_error() -> None:
    command = f"{sys.executable} -m nasvid list --json | head -n 1; exit ${{PIPESTATUS[0]}}"
    result = subprocess.run(
        ["bash", "-c", command], capture_output=True, text=True, env=os.environ, check=False
    )
    assert result.stderr == ""


@pytest.mark.slow
def test_output_to_a_full_disk_is_an_error_at_the_end() -> None:
    with open("/dev/full", "w") as full:
        result = subprocess.run(
            [sys.executable, "-m", "nasvid", "list"],
            stdout=full,
            stderr=subprocess.PIPE,
            text=True,
            check=False,
        )
    assert result.returncode == 2
    assert result.stderr == (
        "error: Output was lost: No space left on device; free some space where it goes\n"
    )
