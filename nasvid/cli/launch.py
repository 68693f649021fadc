"""The verb that starts a recipe on many devices."""

from __future__ import annotations

from pathlib import Path

import click

from nasvid.cli.group import PATH, recipe_options


@click.command()
@recipe_options
@click.option("--out", type=PATH, help="Run folder [default: runs/NAME].")
@click.option("--nodes", type=click.IntRange(min=1), default=1, show_default=True)
@click.option("--devices-per-node", type=click.IntRange(min=1), required=True)
@click.option("--launcher", type=click.Choice(["torchrun", "deepspeed"]), default="torchrun")
@click.option("--master", metavar="HOST", help="Address of node 0, where there are several.")
@click.option("--port", type=click.IntRange(1, 65535), default=29500, show_default=True)
@click.option("--print", "print_", is_flag=True, help="Print the line and stop.")
@click.option("--slurm", is_flag=True, help="Print a batch script for Slurm instead.")
@click.option("--time", default="24:00:00", show_default=True, help="Of the Slurm job.")
@click.option(
    "--grace",
    type=click.IntRange(min=60),
    default=300,
    show_default=True,
    help="Seconds before that time at which the run saves and stops.",
)
@click.option(
    "--cpus-per-device",
    type=click.IntRange(min=1),
    default=8,
    show_default=True,
    help="Of the Slurm job.",
)
def launch(
    recipe: Path,
    scale: str | None,
    sets: tuple[str, ...],
    out: Path | None,
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
) -> None:
    """Start a run on many devices, or print how to."""
    from nasvid.distributed import launch as lines

    job = lines.Job(
        arguments=lines.run_arguments(recipe, scale, sets, out),
        nodes=nodes,
        devices=devices_per_node,
        master=master,
        port=port,
    )
    if slurm:
        name = out.name if out else recipe.stem
        click.echo(
            lines.slurm(job, time=time, grace=grace, cpus=cpus_per_device, name=name), nl=False
        )
        return
    line = lines.deepspeed(job) if launcher == "deepspeed" else lines.torchrun(job)
    if print_:
        click.echo(line)
        return
    lines.start(job, line)
