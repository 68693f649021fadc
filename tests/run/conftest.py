import io
import os
import shutil
import tarfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path

import pytest
import yaml
from click.testing import CliRunner, Result

from nasvid.cli.main import main
from nasvid.data.paths import EMBEDDED

TRAIN, VAL = 6, 4
"""Clips: few, so that a run takes seconds."""


def write_shards(folder: Path) -> dict[str, str]:
    """Write a few of the embedded clips as shards; return the recipe's keys for them."""
    with tarfile.open(next((EMBEDDED / "val").glob("digits*.tar"))) as source:
        members = source.getmembers()
        keys = sorted({member.name.partition(".")[0] for member in members})
        for name, chosen in (("train", keys[:TRAIN]), ("val", keys[TRAIN : TRAIN + VAL])):
            with tarfile.open(folder / f"{name}.tar", "w", format=tarfile.USTAR_FORMAT) as shard:
                for member in members:
                    if member.name.partition(".")[0] in chosen:
                        shard.addfile(member, source.extractfile(member))
    return {name: str(folder / f"{name}.tar") for name in ("train", "val")}


def call(*arguments: object) -> Result:
    """Run a verb in this process; any traceback is the test's."""
    result = CliRunner().invoke(main, [str(argument) for argument in arguments])
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    return result


@pytest.fixture(scope="session")
def few_clips() -> Callable[[Path], dict[str, str]]:
    """Write a few clips into a folder; return the keys of `data` for them."""
    return write_shards


@pytest.fixture(scope="session")
def finished(tiny: Callable[..., str], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a recipe of every stage, `recipe.yaml`, and its finished run, `run`."""
    folder = tmp_path_factory.mktemp("finished")
    recipe = tiny(
        resolutions={32: {"batch": 2}},
        data={**write_shards(folder), "frames": 4, "context_len": 6, "workers": 0},
        vae={"train": {"steps": 2, "batch": 2, "widths": [8, 8, 8]}, "cuts": 1},
        training={
            "steps": 2,
            "checkpoint_every": 1,
            "keep_best": True,
            "learning_rate": 1e-2,
            "lr_warmup": 0,
        },
        search={"strategy": {"name": "random"}, "budget": 6, "clips": 4},
        front={
            "subnets": 2,
            "prompts": ["the digit 3 moves left"],
            "sampling_steps": 2,
            "evaluators": [{"name": "cost"}],
        },
        finetune={"subnets": 1, "steps": 2},
    )
    (folder / "recipe.yaml").write_text(recipe)
    done = call("run", folder / "recipe.yaml", "--out", folder / "run")
    assert done.exit_code == 0, done.output
    return folder


@pytest.fixture
def run(finished: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A copy of the finished run, `run`, in the working directory, with the recipe beside it."""
    shutil.copytree(finished / "run", tmp_path / "run")
    shutil.copy(finished / "recipe.yaml", tmp_path)
    monkeypatch.chdir(tmp_path)
    yield Path("run")
    shutil.rmtree(tmp_path / "run", ignore_errors=True)


@pytest.fixture
def nasvid() -> Callable[..., Result]:
    """Run a verb in this process."""
    return call


@pytest.fixture
def change() -> Callable[..., None]:
    """Change the recipe beside a run: `change(front={"prompts": []})`."""

    def change(**sections: object) -> None:
        path = Path("recipe.yaml")
        recipe = yaml.safe_load(path.read_text())
        for name, section in sections.items():
            both = isinstance(section, dict) and isinstance(recipe.get(name), dict)
            recipe[name] = {**recipe[name], **section} if both else section  # pyright: ignore
        path.write_text(yaml.safe_dump({k: v for k, v in recipe.items() if v is not None}))

    return change


@pytest.fixture
def another_user_of(tmp_path: Path) -> Callable[..., AbstractContextManager[None]]:
    """Be a user who owns a folder, but for one path in it, which he may not read."""
    if os.geteuid():
        pytest.skip("only root can become another user")
    for each in (tmp_path, *tmp_path.parents[:2]):
        each.chmod(0o755)
    user = 65534

    @contextmanager
    def another(folder: Path, hidden: Path) -> Iterator[None]:
        for path in (Path(), folder, *folder.rglob("*")):
            os.chown(path, user, user)
        mode = hidden.stat().st_mode
        os.chown(hidden, 0, 0)
        hidden.chmod(0o700 if hidden.is_dir() else 0o600)
        os.seteuid(user)
        try:
            yield
        finally:
            os.seteuid(0)
            hidden.chmod(mode)

    return another


@pytest.fixture
def make_shard(tmp_path: Path) -> Callable[..., Path]:
    """Write a shard of clips with the given captions, whose videos nothing opens."""

    def make(name: str, captions: Sequence[str]) -> Path:
        with tarfile.open(tmp_path / name, "w") as tar:
            for number, caption in enumerate(captions):
                for ending, body in (("mp4", b"video"), ("txt", caption.encode())):
                    info = tarfile.TarInfo(f"{number}.{ending}")
                    info.size = len(body)
                    tar.addfile(info, io.BytesIO(body))
        return tmp_path / name

    return make
