import os
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest

SCRIPT = Path(__file__).with_name("train_on_ranks.py")
Start = Callable[..., subprocess.Popen[str]]


@pytest.fixture(scope="session")
def ranks_recipe(tiny: Callable[..., str], tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("ranks") / "recipe.yaml"
    recipe = tiny(
        text=None,
        data={"frames": 4, "context_len": 8, "workers": 0},
        resolutions={16: {"batch": 5}, 24: {"batch": "auto"}},
        sampler={"name": "warm_up", "end": 0.3, "inner": {"name": "sandwich", "n_random": 1}},
        training={
            "steps": 12,
            "learning_rate": 1e-3,
            "checkpoint_every": 4,
            "precision": "fp32",
            "distillation": 0.3,
        },
        search={"strategy": {"name": "random"}, "budget": 4, "clips": 4},
        front={"subnets": 2, "evaluators": [], "prompts": []},
    )
    path.write_text(recipe)
    return path


@pytest.fixture(scope="session")
def start(free_port: Callable[[], int]) -> Start:
    """Start a program as one of some ranks each: `start(2, ["-m", "nasvid", "list"])`."""

    def start(ranks: int, program: Sequence[str | Path]) -> subprocess.Popen[str]:
        torchrun = ["-m", "torch.distributed.run", f"--nproc-per-node={ranks}"]
        torchrun += ["--master-addr=127.0.0.1", f"--master-port={free_port()}"]
        return subprocess.Popen(
            [sys.executable, *(torchrun if ranks > 1 else []), *map(str, program)],
            env=os.environ | {"OMP_NUM_THREADS": "1"},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,
        )

    return start


@pytest.fixture(scope="session")
def train(ranks_recipe: Path, start: Start) -> Callable[..., str]:
    """Train in FOLDER/NAME for each NAME=SETTINGS, on some ranks; return what was printed."""

    def train(ranks: int, folder: Path, *named: str, recipe: Path = ranks_recipe) -> str:
        process = start(ranks, [SCRIPT, recipe, folder, *named])
        said, _ = process.communicate(timeout=400)
        assert process.returncode == 0, said
        return said

    return train
