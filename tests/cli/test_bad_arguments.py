"""Whatever is wrong with a run or an argument: one message, exit code 2, nothing written."""

import json
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import click
import pytest
from click.testing import CliRunner

from nasvid import plugins
from nasvid.architecture import Architecture
from nasvid.cli.group import FiniteRange
from nasvid.cli.main import main
from nasvid.preflight import load_recipe, write_resolved

Write = Callable[..., Path]


@pytest.fixture(autouse=True)
def own_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(plugins.registry, "_registered", dict(plugins.registry._registered))


def test_out_folder_that_is_not_a_run(error_of, write_recipe: Write) -> None:
    Path("photos").mkdir()
    Path("photos/cat.jpg").write_bytes(b"meow")
    message = error_of("run", write_recipe(), "--out", "photos")
    assert "photos exists and is not a run folder; choose another with --out" in message
    message = error_of("run", write_recipe(), "--out", "photos/cat.jpg")
    assert "photos/cat.jpg exists and is not a run folder" in message


def test_out_folder_of_another_run(error_of, write_recipe: Write, a_run: Path) -> None:
    message = error_of("run", write_recipe(), "--out", a_run, "--set", "training.steps=3")
    assert "training.steps = 2" in message
    assert "choose another folder with --out" in message


def test_a_search_with_another_supernet(error_of, a_run: Path) -> None:
    message = error_of("search", a_run, "--set", "training.steps=3")
    assert "a search cannot change it; start a new run" in message
    assert "--out" not in message


@pytest.fixture
def a_run(write_recipe: Write) -> Path:
    """Make the folder of a run of which two subnets were evaluated."""
    folder = Path("run")
    recipe = load_recipe(write_recipe()).recipe
    write_resolved(recipe, folder / "recipe.yaml")
    space = recipe.make_space()
    record = [
        {"id": arch.id, "arch": dict(arch), "metrics": {}, "violation": 0.0, "seconds": 1.0}
        for arch in (space.smallest, space.largest)
    ]
    (folder / "search").mkdir()
    (folder / "search" / "record.jsonl").write_text("".join(json.dumps(r) + "\n" for r in record))
    return folder


FOLDER_VERBS = (
    "search {}",
    "extract {}",
    "export {} abc --out x",
    "sample {} --subnet abc --prompt a --out x.mp4",
    "report {}",
)


@pytest.mark.parametrize("verb", FOLDER_VERBS)
@pytest.mark.parametrize("folder", ["photos", "nowhere"])
def test_folder_that_is_no_run(error_of, verb: str, folder: str) -> None:
    Path("photos").mkdir()
    message = error_of(*verb.format(folder).split())
    assert f"{folder} is not a run folder" in message


def test_subnet_that_was_not_evaluated(error_of, a_run: Path) -> None:
    evaluated = json.loads((a_run / "search" / "record.jsonl").read_text().splitlines()[0])["id"]
    wrong = evaluated[:-1] + ("0" if evaluated[-1] != "0" else "1")
    for verb in (
        ["sample", a_run, "--subnet", wrong, "--prompt", "a", "--out", "x.mp4"],
        ["export", a_run, wrong, "--out", "x"],
        ["extract", a_run, wrong],
    ):
        assert f"has no subnet '{wrong}'; did you mean '{evaluated}'" in error_of(*verb)
    assert "has no front yet; run nasvid search run" in error_of("extract", a_run)


def test_resolution_that_the_run_does_not_have(error_of, a_run: Path) -> None:
    evaluated = Architecture(
        json.loads((a_run / "search" / "record.jsonl").read_text().splitlines()[0])["arch"]
    )
    options = ["--subnet", evaluated.id, "--prompt", "a", "--out", "x.mp4", "--resolution", 48]
    assert "Resolution 48 is not one of this run's; use one of 16, 32" in error_of(
        "sample", a_run, *options
    )


def test_video_of_a_format_that_does_not_exist(error_of, a_run: Path) -> None:
    options = ["--subnet", "abc", "--prompt", "a", "--out", "x.avi"]
    assert "x.avi must end in one of .mp4, .webp, .gif, .png" in error_of("sample", a_run, *options)


ARGUMENTS = {
    "serch run": "'serch' is not a command of nasvid; did you mean 'search'",
    "frobnicate": "'frobnicate' is not a command of nasvid; use one of init, data, run",
    "data pac": "'pac' is not a command of nasvid data; did you mean 'pack'",
    "plan recipe.yaml --jsn": "--json",
    "plan recipe.yaml --devices 0": "--devices 0: write a number of at least 1",
    "plan recipe.yaml --utilization nan": "'nan' is not a number",
    "sample run --subnet a --prompt b --guidance nan": "'nan' is not a number",
    "sample run --subnet a --prompt \udcff": "--prompt': it is not UTF-8",
    "plan": "RECIPE",
    "sample run": "--subnet",
    "list samplrs": "'samplrs' is not a kind of plug-in; did you mean 'samplers'",
    "show sandwhich": "No plug-in 'sandwhich'; did you mean 'sandwich'",
    "show samplers/hash": "No plug-in 'hash'; use one of attentive, cost_uniform",
    "data pack empty out": "empty holds no videos",
    "data pack nowhere out": "nowhere is not a folder",
    "data inspect nowhere.tar": "nowhere.tar does not exist",
    "data inspect empty": "empty is a folder; for all shards in it write 'empty/*.tar'",
    "data inspect packed": "packed is a folder; for all shards in it write 'packed/train/*.tar'",
    "data inspect x://bucket/x.tar": "'x' is not supported",
}


@pytest.mark.parametrize("command", ARGUMENTS)
def test_wrong_argument(error_of, command: str) -> None:
    Path("empty").mkdir()
    Path("packed/train").mkdir(parents=True)
    Path("packed/train/0.tar").touch()
    message = error_of(*command.split())
    assert ARGUMENTS[command] in message
    assert len(message.splitlines()) == 1


@pytest.mark.parametrize("command", ["", "data", "bench"])
def test_commands_alone_show_their_help(command: str) -> None:
    result = CliRunner().invoke(main, command.split(), prog_name="nasvid")
    assert result.exit_code == 2
    assert result.stdout == ""
    assert result.stderr.startswith(f"Usage: nasvid {command}".rstrip() + " [OPTIONS] COMMAND")


@pytest.mark.parametrize(
    ("time", "grace", "limit"),
    [("1:00", 300, 60), ("2", 120, 120), ("0:01:30", 90, 90), ("1-0:1", 86400, None)],
)
def test_a_job_that_would_stop_before_it_begins(
    error_of, write_recipe: Write, time: str, grace: int, limit: int | None
) -> None:
    options = ["--devices-per-node", "2", "--slurm", "--time", time, "--grace", str(grace)]
    command = ["launch", str(write_recipe()), *options]
    if limit is None:
        assert CliRunner().invoke(main, command).exit_code == 0
        return
    message = error_of(*command)
    assert message.startswith(f"--grace {grace}: ")
    assert f"its limit of {limit} seconds" in message


def test_a_time_limit_of_endless_digits(error_of, write_recipe: Write) -> None:
    options = ["--devices-per-node", "2", "--slurm", "--time", "9" * 5000]
    assert "is not a Slurm time limit" in error_of("launch", write_recipe(), *options)


@pytest.mark.slow
@pytest.mark.parametrize(
    "arguments",
    [["run", "recipe.yaml"], ["serch"]],
    ids=lambda arguments: arguments[0],
)
def test_in_a_process_of_its_own(everything, arguments: list[str], write_recipe: Write) -> None:
    write_recipe({"steps: 2": "stepz: 2"})
    before = everything(Path.cwd())
    command = [sys.executable, "-m", "nasvid", *arguments]
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    assert result.returncode == 2
    assert result.stdout == ""
    assert result.stderr.startswith("error: ")
    assert "Traceback" not in result.stderr
    assert everything(Path.cwd()) == before


def test_a_page_that_the_strategy_does_not_have(
    error_of, write_recipe: Write, tmp_path: Path
) -> None:
    path = write_recipe()
    message = error_of("run", path.name, "--keep-ui", "--out", "run")
    assert "Strategy 'random' has no page of its own" in message
    assert not (tmp_path / "run").exists()


def _options(command: click.Command, name: str = "nasvid") -> Iterator[tuple[str, click.Parameter]]:
    for parameter in command.params:
        yield f"{name} {parameter.name}", parameter
    if isinstance(command, click.Group):
        context = click.Context(command)
        for each in command.list_commands(context):
            found = command.get_command(context, each)
            assert found is not None
            yield from _options(found, f"{name} {each}")


def test_every_number_of_a_command_has_bounds() -> None:
    numbers = (click.types.IntParamType, click.types.FloatParamType)
    found = [(name, each.type) for name, each in _options(main) if isinstance(each.type, numbers)]
    assert len(found) > 10
    for name, kind in found:
        assert isinstance(kind, click.IntRange | click.FloatRange), name
        assert kind.min is not None, name
        assert kind.max is not None, name
        assert not isinstance(kind, click.FloatRange) or isinstance(kind, FiniteRange), name


def test_every_default_is_shown() -> None:
    for name, each in _options(main):
        if (
            isinstance(each, click.Option)
            and not each.is_flag
            and isinstance(each.default, str | int)
        ):
            assert each.show_default, name
