import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.processes import Started
from tests.training.train_on_ranks import train_each

Launch = Callable[..., subprocess.Popen[str]]
Ranks = Callable[..., list[Started]]


@pytest.fixture(scope="session")
def ranks_recipe(tiny: Callable[..., str], tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("ranks") / "recipe.yaml"
    recipe = tiny(
        text=None,
        data={"frames": 4, "context_len": 8, "workers": 0},
        resolutions={16: {"batch": 5}, 24: {"batch": "auto"}},
        sampler={"name": "warm_up", "end": 0.3, "inner": {"name": "sandwich", "n_random": 1}},
        training={
            "steps": 6,
            "learning_rate": 1e-3,
            "checkpoint_every": 2,
            "precision": "fp32",
            "distillation": 0.3,
        },
        search={"strategy": {"name": "random"}, "budget": 4, "clips": 4},
        front={"subnets": 2, "evaluators": [], "prompts": []},
    )
    path.write_text(recipe)
    return path


@pytest.fixture(scope="session")
def torchrun(free_port: Callable[[], int]) -> Launch:
    """Let torchrun start a program as two ranks: `torchrun("-m", "nasvid", "list")`."""

    def torchrun(*program: str | Path) -> subprocess.Popen[str]:
        launcher = ["-m", "torch.distributed.run", "--nproc-per-node=2"]
        launcher += ["--master-addr=127.0.0.1", f"--master-port={free_port()}"]
        return subprocess.Popen(
            [sys.executable, *launcher, *map(str, program)],
            env=os.environ | {"OMP_NUM_THREADS": "1"},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,
        )

    return torchrun


@pytest.fixture(scope="session")
def ranks(free_port: Callable[[], int], tmp_path_factory: pytest.TempPathFactory) -> Ranks:
    """Call a function of a module as each of some ranks: `ranks(2, nasvid, "list")`."""

    def ranks(size: int, call: Callable[..., None], *arguments: object) -> list[Started]:
        said = tmp_path_factory.mktemp("said")
        shared = {"WORLD_SIZE": size, "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": free_port()}
        each = [shared | {"RANK": rank, "LOCAL_RANK": rank} for rank in range(size)]
        return [
            Started(said / f"{n}", call, *arguments, env={k: str(v) for k, v in env.items()})
            for n, env in enumerate(each)
        ]

    return ranks


@pytest.fixture(scope="session")
def train(ranks_recipe: Path, ranks: Ranks) -> Callable[..., str]:
    """Train in FOLDER/NAME for each NAME=SETTINGS, on some ranks; return what was printed."""

    def train(size: int, folder: Path, *named: str) -> str:
        started = ranks(size, train_each, ranks_recipe, folder, *named)
        codes = [each.wait(400) for each in started]
        said = "".join(each.said for each in started)
        assert codes == [0] * size, said
        return said

    return train
