"""Commands that start a run as many processes: torchrun, Slurm, and parts for other launchers."""

from __future__ import annotations

import os
import re
import shlex
import shutil
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from nasvid.distributed import torchrun as own_torchrun
from nasvid.errors import UserError

LOOPBACK = "127.0.0.1"
"""The address at which the processes of a single machine meet. torchrun's own `--standalone` uses
the host name instead, and hangs if it does not resolve."""

SLURM_TIME = re.compile(r"(\d{1,9}-)?\d{1,9}(:\d{1,9}){0,2}", re.ASCII)
"""Minutes, hours:minutes:seconds, days-hours, and so on."""
CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028\u2029]")


@dataclass(frozen=True, slots=True, kw_only=True)
class Job:
    """A run on `nodes` machines of `devices` each, one process per device.

    arguments: of nasvid. master: address of node 0; None takes it from the shell variable
    MASTER_ADDR. port: a free port there.

    Raises:
        UserError: an argument has control characters, which a shell command or a batch script must
            not contain.
    """

    arguments: Sequence[str]
    nodes: int
    devices: int
    master: str | None = None
    port: int = 29500

    def __post_init__(self) -> None:
        for word in (*self.arguments, self.master or ""):
            _check_one_line(word)


def run_arguments(
    recipe: Path,
    scale: str | None,
    sets: Sequence[str],
    out: Path | None,
    command: Sequence[str] = ("run",),
) -> list[str]:
    """Return the arguments of `nasvid run`, or of another command, for a recipe and its overrides.

    Raises:
        UserError: the recipe does not exist.
    """
    if not recipe.is_file():
        raise UserError(f"Recipe {recipe} does not exist")
    arguments = [*command, str(recipe)]
    if scale is not None:
        arguments += ["--scale", scale]
    for change in sets:
        arguments += ["--set", change]
    return arguments if out is None else [*arguments, "--out", str(out)]


def torchrun(job: Job) -> str:
    """Return the command that each node runs; the processes meet at node 0."""
    launcher = [*program("torchrun", "torch.distributed.run"), *_meeting(job)]
    return shell_line(launcher, ["-m", "nasvid"], job)


def _meeting(job: Job) -> list[str]:
    words = [f"--nnodes={job.nodes}", f"--nproc-per-node={job.devices}"]
    if job.nodes > 1:
        words.append("--node-rank=" + _variable("NODE_RANK", "number of this node, from 0"))
    return [*words, f"--master-addr={master(job)}", f"--master-port={job.port}"]


def slurm(job: Job, *, time: str, grace: int, cpus: int, name: str) -> str:
    """Return a batch script for Slurm.

    Slurm starts each process itself, so that each receives the signal before the time limit.
    With torchrun in between, any process that has not ended 30 s later would be killed.

    time: the job's limit in Slurm's format. grace: seconds before it at which the run is asked to
    save and stop. cpus: per device.

    Raises:
        UserError: the limit is not in Slurm's format or not longer than the grace, or the name has
            control characters.
    """
    limit = _seconds(time)
    if 0 < limit <= grace:
        raise UserError(
            f"--grace {grace}: a job of --time {time} would be asked to stop before it begins, "
            f"{grace} seconds before its limit of {limit} seconds; give it more time or less grace"
        )
    _check_one_line(name)
    command = shell_line([*program("python", None)], ["-m", "nasvid"], job)
    return _SLURM.format(
        name=shlex.quote(f"--job-name={name}"),
        nodes=job.nodes,
        devices=job.devices,
        time=time,
        grace=grace,
        cpus=cpus,
        command=shlex.quote(f"export RANK=$SLURM_PROCID LOCAL_RANK=$SLURM_LOCALID\nexec {command}"),
    )


def _seconds(time: str) -> int:
    """Return a time limit of Slurm in seconds; 0 is no limit.

    Raises:
        UserError: it is not in Slurm's format.
    """
    if not SLURM_TIME.fullmatch(time):
        raise UserError(f"--time {time!r} is not a Slurm time limit; write 24:00:00 or 3-12:00")
    days, dash, rest = time.rpartition("-")
    fields = [int(field) for field in rest.split(":")]
    # Alone they are minutes and minutes:seconds; after days, hours and hours:minutes.
    units = (3600, 60, 1) if dash or len(fields) == 3 else (60, 1)
    return int(days or 0) * 86400 + sum(n * unit for n, unit in zip(fields, units, strict=False))


_SLURM = """\
#!/bin/bash
# {nodes} nodes of {devices} devices each. Submitted again, it resumes from the last checkpoint:
# sbatch --dependency=singleton FILE, as often as needed.
#SBATCH {name}
#SBATCH --nodes={nodes}
#SBATCH --ntasks-per-node={devices}
#SBATCH --gpus-per-node={devices}
#SBATCH --cpus-per-task={cpus}
#SBATCH --time={time}
#SBATCH --signal=TERM@{grace}
#SBATCH --requeue
#SBATCH --open-mode=append
#SBATCH --output=%x-%j.log

set -euo pipefail
mapfile -t hosts < <(scontrol show hostnames "$SLURM_JOB_NODELIST")
MASTER_ADDR=${{hosts[0]}}
MASTER_PORT=$((20000 + SLURM_JOB_ID % 20000))
WORLD_SIZE=$SLURM_NTASKS
export MASTER_ADDR MASTER_PORT WORLD_SIZE

# A rank may end long before another, which needs --wait=0.
srun --cpus-per-task={cpus} --kill-on-bad-exit=1 --wait=0 bash -c {command}
"""


def start(job: Job, line: str | None) -> int:
    """Start a job on this machine and return its exit code.

    line: the command of an engine's own launcher, which replaces this process; None for torchrun.

    Raises:
        UserError: the job has several nodes.
    """
    if job.nodes > 1:
        raise UserError(
            f"--nodes {job.nodes}: each node must run its own command; print it with --print, or "
            "write a script that starts all nodes with --slurm"
        )
    if line is not None:
        words = shlex.split(line)
        os.execvp(words[0], words)
    return own_torchrun.run([*_meeting(job), "-m", "nasvid", *job.arguments])


def _check_one_line(word: str) -> None:
    if CONTROL.search(word):
        raise UserError(
            f"{word!r} contains a line break or another control character; rename or remove it"
        )


def shell_line(launcher: Sequence[str], module: Sequence[str], job: Job) -> str:
    """Return a shell command: the launcher's words unquoted, then nasvid's, quoted.

    module: how the launcher names the module to run: `-m nasvid`.
    """
    words = [*module, *job.arguments]
    return " ".join([*launcher, *map(shlex.quote, words)])


def program(script: str, module: str | None) -> list[str]:
    """Return a program's name if the shell would run this installation's, else the full command."""
    found, here = shutil.which(script), Path(sys.executable)
    if found and Path(found).parent == here.parent:
        return [script]
    return [shlex.quote(str(here)), *(["-m", module] if module else [])]


def master(job: Job) -> str:
    """Return the address at which a job's ranks meet, for the shell."""
    if job.master is not None:
        return shlex.quote(job.master)
    return LOOPBACK if job.nodes == 1 else _variable("MASTER_ADDR", "address of node 0")


def _variable(name: str, meaning: str) -> str:
    """Return a reference to a shell variable that makes the command fail if it is not set."""
    return f'"${{{name}:?{meaning}}}"'
