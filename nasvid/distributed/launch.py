"""Commands that start a run as many processes: torchrun, Slurm, and parts for other launchers."""

from __future__ import annotations

import os
import shlex
import shutil
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NoReturn

from nasvid.errors import UserError

LOOPBACK = "127.0.0.1"
"""Where the processes of one machine meet. torchrun's own `--standalone` uses the host name
instead, and hangs if that does not resolve."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Job:
    """A run on `nodes` machines of `devices` each, one process per device.

    arguments: of nasvid. master: address of node 0; None leaves it to the shell variable
    MASTER_ADDR. port: a free one there.
    """

    arguments: Sequence[str]
    nodes: int
    devices: int
    master: str | None = None
    port: int = 29500


def run_arguments(
    recipe: Path, scale: str | None, sets: Sequence[str], out: Path | None
) -> list[str]:
    """Return the arguments of `nasvid run` for a recipe and its overrides.

    Raises:
        UserError: the recipe does not exist.
    """
    if not recipe.is_file():
        raise UserError(f"Recipe {recipe} does not exist")
    arguments = ["run", str(recipe)]
    if scale is not None:
        arguments += ["--scale", scale]
    for change in sets:
        arguments += ["--set", change]
    return arguments if out is None else [*arguments, "--out", str(out)]


def torchrun(job: Job) -> str:
    """Return the command that each node runs; the processes meet at node 0."""
    meeting = [f"--nnodes={job.nodes}", f"--nproc-per-node={job.devices}"]
    if job.nodes > 1:
        meeting.append("--node-rank=" + _variable("NODE_RANK", "number of this node, from 0"))
    meeting += [f"--master-addr={master(job)}", f"--master-port={job.port}"]
    return shell_line(
        [*program("torchrun", "torch.distributed.run"), *meeting], ["-m", "nasvid"], job
    )


def slurm(job: Job, *, time: str, grace: int, cpus: int, name: str) -> str:
    """Return a batch script for Slurm.

    Slurm starts each process itself, so that each receives its signal before the time limit.
    torchrun in between would kill any that has not ended 30 s later.

    time: the job's limit in Slurm's format. grace: seconds before it at which the run is asked to
    save and stop. cpus: per device.
    """
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

# Rank 0 runs alone after the training, which needs --wait=0.
srun --cpus-per-task={cpus} --kill-on-bad-exit=1 --wait=0 bash -c {command}
"""


def start(job: Job, line: str) -> NoReturn:
    """Replace this process with the launcher that a command starts.

    Raises:
        UserError: the job has several nodes.
    """
    if job.nodes > 1:
        raise UserError(
            f"--nodes {job.nodes}: each node must run its own command; print it with --print, or "
            "write a script that starts all nodes with --slurm"
        )
    words = shlex.split(line)
    os.execvp(words[0], words)


def shell_line(launcher: Sequence[str], module: Sequence[str], job: Job) -> str:
    """Return a command: the launcher's words, unquoted for the shell, then nasvid's, quoted.

    module: how the launcher names the module to run: `-m nasvid`.
    """
    words = [*module, *job.arguments]
    return " ".join([*launcher, *map(shlex.quote, words)])


def program(script: str, module: str | None) -> list[str]:
    """Return a program's name if the shell finds this installation's, else its path."""
    found, here = shutil.which(script), Path(sys.executable)
    if found and Path(found).parent == here.parent:
        return [script]
    return [shlex.quote(str(here)), *(["-m", module] if module else [])]


def master(job: Job) -> str:
    """Return where a job's ranks meet, for the shell."""
    if job.master is not None:
        return shlex.quote(job.master)
    return LOOPBACK if job.nodes == 1 else _variable("MASTER_ADDR", "address of node 0")


def _variable(name: str, meaning: str) -> str:
    """Return a shell variable without which the command fails."""
    return f'"${{{name}:?{meaning}}}"'
