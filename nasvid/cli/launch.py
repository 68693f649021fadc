"""The command that starts a recipe on many devices."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from nasvid.cli.group import PATH, recipe_options
from nasvid.errors import UserError
from nasvid.host.terminal import say

if TYPE_CHECKING:
    from nasvid.distributed.launch import Job

TORCHRUN = "torchrun"
RUN, ENCODE = ("run",), ("data", "encode")


@click.command()
@recipe_options
@click.option("--out", type=PATH, help="Run folder [default: runs/NAME].")
@click.option(
    "--encode", is_flag=True, help="Encode clips and captions instead, as nasvid data encode does."
)
@click.option(
    "--nodes",
    type=click.IntRange(1, 10**5),
    default=1,
    show_default=True,
    help="Number of machines.",
)
@click.option(
    "--devices-per-node", type=click.IntRange(1, 1024), required=True, help="Ranks per machine."
)
@click.option(
    "--launcher",
    metavar="NAME",
    default=TORCHRUN,
    show_default=True,
    help="torchrun, or an engine that has its own launcher.",
)
@click.option("--master", metavar="HOST", help="Address of node 0, if there are several nodes.")
@click.option("--port", type=click.IntRange(1, 65535), default=29500, show_default=True)
@click.option("--print", "print_", is_flag=True, help="Print the command and stop.")
@click.option("--slurm", is_flag=True, help="Print a batch script for Slurm instead.")
@click.option("--time", default="24:00:00", show_default=True, help="Time limit of the Slurm job.")
@click.option(
    "--grace",
    type=click.IntRange(60, 86400),
    default=300,
    show_default=True,
    help="Seconds before the time limit at which the run saves and stops.",
)
@click.option(
    "--cpus-per-device",
    type=click.IntRange(1, 1024),
    default=8,
    show_default=True,
    help="CPUs per device of the Slurm job.",
)
def launch(
    recipe: Path,
    scale: str | None,
    sets: tuple[str, ...],
    out: Path | None,
    encode: bool,
    nodes: int,
    devices_per_node: int,
    launcher: str,
    master: str | None,
    port: int,
    print_: bool,
    slurm: bool,
    time: str,
    grace: int,
    cpus_per_device: int,
) -> int:
    """Start a run on many devices, or print the command for it."""
    from nasvid.distributed import launch as lines

    job = lines.Job(
        arguments=lines.run_arguments(recipe, scale, sets, out, ENCODE if encode else RUN),
        nodes=nodes,
        devices=devices_per_node,
        master=master,
        port=port,
    )
    if slurm:
        name = out.name if out else recipe.stem
        say(lines.slurm(job, time=time, grace=grace, cpus=cpus_per_device, name=name), end="")
        return 0
    line = None if launcher == TORCHRUN else _engines_line(launcher, job)
    if print_:
        say(line or lines.torchrun(job))
        return 0
    return lines.start(job, line)


def _engines_line(name: str, job: Job) -> str:
    """Return the command of an engine's own launcher.

    Raises:
        UserError: there is no such engine, or it has none.
    """
    from nasvid.training.engine import engine_class

    line = engine_class(name).launch_line(job)
    if line is None:
        raise UserError(f"--launcher {name}: engine {name} has no launcher; use {TORCHRUN}")
    return line
