import os
import re
import shlex
import stat
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from click.testing import CliRunner

from nasvid.cli.main import main
from nasvid.distributed import launch

pytestmark = pytest.mark.slow

Write = Callable[..., Path]
Port = Callable[[], int]
ASK = """\
import os, sys
said = ["RANK", *(os.environ[name] for name in {names!r}), *sys.argv[1:]]
os.write(1, (" ".join(said) + "\\n").encode())
"""
"""A program that says which of the processes it is."""


def printed(*arguments: object, code: int = 0) -> str:
    result = CliRunner().invoke(main, ["launch", *map(str, arguments)])
    assert result.exit_code == code, result.output
    return result.stdout if code == 0 else result.stderr


def run_in_shell(script: str, folder: Path, **environment: str) -> str:
    """Run a script in bash; return what it printed."""
    result = subprocess.run(
        ["bash", "-c", script],
        cwd=folder,
        env=os.environ | {"OMP_NUM_THREADS": "1"} | environment,
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )
    assert result.returncode == 0, result.stdout + result.stderr
    return result.stdout


def stand_in(folder: Path, names: tuple[str, ...]) -> str:
    """Put a module `nasvid` into a folder that says how it was started, and return PYTHONPATH."""
    package = folder / "stand in" / "nasvid"
    package.mkdir(parents=True)
    (package / "__init__.py").touch()
    (package / "__main__.py").write_text(ASK.format(names=names))
    return str(package.parent)


def test_torchruns_line_starts_a_process_for_each_device(
    write_recipe: Write, free_port: Port, tmp_path: Path
) -> None:
    recipe = write_recipe().rename(tmp_path / "my recipe.yaml")
    line = printed(
        *(recipe, "--set", "a.b=it's", "--out", "runs/a b", "--devices-per-node", 2),
        *("--port", free_port(), "--print"),
    )
    names = ("RANK", "LOCAL_RANK", "WORLD_SIZE", "MASTER_ADDR")
    said = run_in_shell(line, tmp_path, PYTHONPATH=stand_in(tmp_path, names))
    given = f"run {recipe} --set a.b=it's --out runs/a b"
    started = sorted(text for text in said.splitlines() if text.startswith("RANK"))
    assert started == [f"RANK {n} {n} 2 127.0.0.1 {given}" for n in (0, 1)]


def test_each_node_runs_its_own_line(write_recipe: Write, free_port: Port, tmp_path: Path) -> None:
    recipe = write_recipe()
    line = printed(
        *(recipe, "--nodes", 2, "--devices-per-node", 1, "--port", free_port(), "--print")
    )
    names = ("RANK", "WORLD_SIZE")
    path = stand_in(tmp_path, names)
    both = "\n".join(f"NODE_RANK={n} bash -c {shlex.quote(line)} &" for n in (0, 1)) + "\nwait"
    said = run_in_shell(both, tmp_path, PYTHONPATH=path, MASTER_ADDR="127.0.0.1")
    assert sorted(re.findall(r"RANK (\d) 2 run", said)) == ["0", "1"]
    alone = subprocess.run(["bash", "-c", line], capture_output=True, text=True, check=False)
    assert alone.returncode != 0
    assert "NODE_RANK: number of this node, from 0" in alone.stderr


def test_several_nodes_are_not_started_from_one(write_recipe: Write) -> None:
    said = printed(write_recipe(), "--nodes", 2, "--devices-per-node", 8, code=2)
    assert "each node must run its own command" in said


def test_a_recipe_that_is_not_there_is_said() -> None:
    said = printed("nowhere.yaml", "--devices-per-node", 8, "--print", code=2)
    assert said == "error: Recipe nowhere.yaml does not exist\n"


def test_deepspeeds_line_starts_a_process_for_each_device(
    write_recipe: Write, free_port: Port, tmp_path: Path
) -> None:
    pytest.importorskip("deepspeed")
    line = printed(
        *(write_recipe(), "--devices-per-node", 2, "--port", free_port(), "--print"),
        *("--launcher", "deepspeed"),
    )
    said = run_in_shell(line, tmp_path, PYTHONPATH=stand_in(tmp_path, ("RANK", "WORLD_SIZE")))
    assert sorted(re.findall(r"RANK (\d) 2 run", said)) == ["0", "1"]
    assert "--local_rank" not in said
    many = printed(
        *(write_recipe(), "--nodes", 4, "--devices-per-node", 8, "--print"),
        *("--launcher", "deepspeed", "--master", "node0"),
    )
    comment, line, _ = many.split("\n")
    assert comment.startswith("# hostfile: a line `HOST slots=8`")
    assert "--num_nodes=4 --master_addr=node0" in line


@pytest.mark.parametrize(
    ("launcher", "said"),
    [
        ("torch", "engine torch has no launcher"),
        ("deepsped", "did you mean 'deepspeed'"),
    ],
)
def test_a_launcher_is_torchrun_or_an_engines_own(
    launcher: str, said: str, write_recipe: Write
) -> None:
    arguments = (write_recipe(), "--devices-per-node", 2, "--print", "--launcher", launcher)
    assert said in printed(*arguments, code=2)


SRUN = """\
#!/bin/bash
# Starts a job's tasks here, as srun starts them on its nodes.
while [[ $1 == --* ]]; do shift; done
for task in $(seq 0 $((SLURM_NTASKS - 1))); do
  SLURM_PROCID=$task SLURM_LOCALID=$((task % 2)) "$@" &
done
wait
"""


def test_slurms_script_starts_a_task_for_each_device(write_recipe: Write, tmp_path: Path) -> None:
    """In bash, with stand-ins for Slurm's own two commands."""
    script = printed(
        *(write_recipe(), "--nodes", 2, "--devices-per-node", 2, "--slurm"),
        *("--out", "runs/a 'b'", "--time", "3-00:00:00", "--grace", 600),
    )
    commands = tmp_path / "commands"
    commands.mkdir()
    for name, text in (("srun", SRUN), ("scontrol", "#!/bin/bash\necho node7; echo node8\n")):
        (commands / name).write_text(text)
        (commands / name).chmod(stat.S_IRWXU)
    names = ("RANK", "LOCAL_RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")
    said = run_in_shell(
        script,
        tmp_path,
        PYTHONPATH=stand_in(tmp_path, names),
        PATH=f"{commands}:{os.environ['PATH']}",
        SLURM_NTASKS="4",
        SLURM_JOB_ID="40123",
        SLURM_JOB_NODELIST="node[7-8]",
    )
    started = sorted(said.splitlines())
    assert [text.split()[1:6] for text in started] == [
        [str(n), str(n % 2), "4", "node7", "20123"] for n in range(4)
    ]
    assert all(text.endswith("--out runs/a 'b'") for text in started)
    options = dict(re.findall(r"^#SBATCH --([\w-]+)=?(.*)$", script, re.MULTILINE))
    assert options["nodes"] == options["ntasks-per-node"] == options["gpus-per-node"] == "2"
    assert (options["time"], options["signal"]) == ("3-00:00:00", "TERM@600")
    assert "requeue" in options


def test_words_are_quoted_for_the_shell() -> None:
    job = launch.Job(arguments=["run", "a b.yaml", "--set", "x=$HOME"], nodes=1, devices=1)
    assert shlex.split(launch.torchrun(job))[-3:] == ["a b.yaml", "--set", "x=$HOME"]


def started(*command: object, folder: Path) -> tuple[int, list[str]]:
    """Start ranks that must fail; return the exit code and the lines on stderr."""
    done = subprocess.run(
        [str(Path(sys.executable).parent / str(command[0])), *map(str, command[1:])],
        cwd=folder,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )
    return done.returncode, [line for line in done.stderr.splitlines() if "OMP_" not in line]


FEWER = "error: resolutions.16: a step has 1 clip for 2 ranks"


def test_without_print_launch_starts_ranks_and_adds_nothing_to_their_error(
    write_recipe: Write, free_port: Port, tmp_path: Path
) -> None:
    recipe = write_recipe({"16: {batch: 2}": "16: {batch: 1}"})
    options = ("--devices-per-node", 2, "--port", free_port())
    code, said = started("nasvid", "launch", recipe, *options, folder=tmp_path)
    assert code == 2
    assert said[-1].startswith(FEWER)
    assert len(said) <= 2


def test_what_is_wrong_for_all_ranks_is_said_once_by_them_and_once_by_torchrun(
    write_recipe: Write, free_port: Port, tmp_path: Path
) -> None:
    options = ("--nproc-per-node=2", "--master-addr=127.0.0.1", f"--master-port={free_port()}")
    run = ("-m", "nasvid", "run", write_recipe(), "--set", "training.stps=1")
    code, said = started("torchrun", *options, *run, folder=tmp_path)
    assert code != 0
    by_ranks, _, by_torchrun = "\n".join(said).partition("=" * 60)
    for each in (by_ranks, by_torchrun):
        assert each.count("training.stps: ") == 1, said
    assert "training.stps: " in said[-2]


@pytest.mark.parametrize(
    ("options", "named"),
    [
        (("--time", "1:00\n#SBATCH --uid=root"), "--time"),
        (("--time", "1:00 --uid=root"), "--time"),
        (("--out", "runs/a\n#SBATCH --uid=root"), "control character"),
        (("--out", "runs/a\x1b[2J"), "control character"),
        (("--scale", "a\rb"), "control character"),
        (("--set", "name=a\u2028b"), "control character"),
        (("--master", "node0\nrm"), "control character"),
    ],
)
def test_nothing_injects_a_line_into_a_script(
    options: tuple[str, str], named: str, write_recipe: Write
) -> None:
    said = printed(write_recipe(), "--devices-per-node", 2, "--slurm", *options, code=2)
    assert named in said
    assert said.count("\n") == 1


def test_a_recipes_name_injects_no_line(write_recipe: Write, tmp_path: Path) -> None:
    recipe = write_recipe().rename(tmp_path / "a\n#SBATCH --uid=root.yaml")
    for option in ("--slurm", "--print"):
        said = printed(recipe, "--devices-per-node", 2, option, code=2)
        assert "control character" in said


def test_what_is_encoded_is_started_alike(write_recipe: Write) -> None:
    recipe = write_recipe()
    words = ("--devices-per-node", 2, "--encode", "--out", "shared", "--print")
    assert f"-m nasvid data encode {recipe} --out shared" in printed(recipe, *words)
