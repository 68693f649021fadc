"""The command line. Each command calls one function, and imports what it needs only then."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from nasvid.cli import complete
from nasvid.cli.bench import bench
from nasvid.cli.data import data
from nasvid.cli.export import export, extract
from nasvid.cli.finetune import finetune
from nasvid.cli.group import (
    PATH,
    FiniteRange,
    PluggedVerbs,
    ResolutionType,
    as_json,
    before_finetuning,
    print_json,
    recipe_options,
    run_folder,
    settings,
    trust_plugins,
    utf8,
)
from nasvid.cli.importance import importance
from nasvid.cli.init import init
from nasvid.cli.latency import latency
from nasvid.cli.launch import launch
from nasvid.cli.plan import plan
from nasvid.cli.rank import rank
from nasvid.host.terminal import say

keep_ui = click.option(
    "--keep-ui", is_flag=True, help="Keep the search's web UI open after the run, until Ctrl-C."
)


@click.group(cls=PluggedVerbs, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="nasvid", prog_name="nasvid")
def main() -> None:
    """Neural architecture search over video diffusion models."""


main.add_command(init)
main.add_command(data)


@main.command("run")
@recipe_options
@click.option("--out", type=PATH, help="Run folder [default: runs/NAME].")
@click.option(
    "--dry-run", is_flag=True, help="Check what a run needs, print the resolved recipe and stop."
)
@keep_ui
def run_(
    recipe: Path,
    scale: str | None,
    sets: tuple[str, ...],
    out: Path | None,
    dry_run: bool,
    keep_ui: bool,
) -> None:
    """Train, search, extract, report: all stages that are left."""
    from nasvid.preflight import check_ready, to_yaml
    from nasvid.run.folder import load_to_run

    loaded = load_to_run(recipe, out, scale=scale, overrides=sets)
    if dry_run:
        check_ready(loaded)
        say(to_yaml(loaded.recipe), end="")
        return
    if loaded.why:
        say(loaded.why)
    check_ready(loaded)
    from nasvid.run import pipeline

    pipeline.run(loaded, out or Path("runs") / loaded.recipe.name, keep_ui=keep_ui)


main.add_command(plan)
main.add_command(launch)


@main.command()
@run_folder
@settings
@keep_ui
@trust_plugins
def search(run: Path, sets: tuple[str, ...], keep_ui: bool, trust: bool) -> None:
    """Search a trained run again, with other settings or budget.

    Under torchrun, on all ranks.
    """
    from nasvid.run import pipeline

    pipeline.search_again(run, sets, keep_ui=keep_ui, trust=trust)


main.add_command(rank)
main.add_command(finetune)
main.add_command(importance)


main.add_command(extract)
main.add_command(export)


@main.command()
@run_folder
@click.option(
    "--subnet",
    metavar="ID",
    required=True,
    shell_complete=complete.subnets,
    help="The subnet's id, or a unique prefix.",
)
@click.option("--prompt", required=True, callback=utf8, help="What the video should show.")
@click.option(
    "--out",
    type=PATH,
    help="MP4, WebP or GIF file to write, or PNG of one frame [default: an MP4 or PNG named for "
    "its subnet and prompt].",
)
@click.option(
    "--resolution",
    type=ResolutionType(),
    help="One of the run's, such as 64 or 480x832x81 [default: its highest].",
)
@click.option("--seed", type=click.IntRange(0, 2**63 - 1), default=0, show_default=True)
@click.option(
    "--steps", type=click.IntRange(1, 1000), help="Denoising steps [default: front.sampling_steps]."
)
@click.option(
    "--guidance",
    type=FiniteRange(0, 100),
    help="Scale of classifier-free guidance; 1 is none [default: front.guidance_scale].",
)
@before_finetuning
@trust_plugins
def sample(run: Path, subnet: str, out: Path | None, trust: bool, **wanted: Any) -> None:
    """Sample a video from a subnet, as trained last."""
    from nasvid.run import verbs

    request = verbs.SampleRequest(**wanted)
    say(verbs.sample_video(run, subnet, request, out, trust=trust))


@main.command()
@run_folder
def report(run: Path) -> None:
    """Rewrite a run's report.html.

    No code that its recipe names is run.
    """
    from nasvid.run.report import report_again

    report_again(run)


plugins_of = click.option(
    "--recipe", type=PATH, help="Also those of the files in its `plugins:`, which are run."
)


def _load_plugins(recipe: Path | None) -> None:
    if recipe is not None:
        from nasvid.preflight import load_plugins

        load_plugins(recipe)


@main.command("list")
@click.argument("kind", required=False, shell_complete=complete.kinds)
@plugins_of
@as_json
def list_(kind: str | None, recipe: Path | None, as_json: bool) -> None:
    """List the plug-ins of one KIND, or of all kinds."""
    from nasvid.recipe import catalog

    _load_plugins(recipe)
    entries = catalog.entries(kind)
    if as_json:
        print_json(entries)
        return
    from nasvid.cli.tables import show_table

    columns = ("kind", "name", "summary", "source")
    show_table("", columns, [[entry[column] for column in columns] for entry in entries])


@main.command()
@click.argument("name", shell_complete=complete.plugins)
@plugins_of
@as_json
def show(name: str, recipe: Path | None, as_json: bool) -> None:
    """Show a plug-in and its options, by NAME or KIND/NAME."""
    from nasvid.recipe import catalog

    _load_plugins(recipe)
    plugin, options = catalog.details(name)
    if as_json:
        print_json(plugin | {"options": options})
        return
    from nasvid.cli.tables import show_plugin

    show_plugin(plugin, options)


@main.command()
@as_json
def doctor(as_json: bool) -> None:
    """Check this machine and the installed packages."""
    from nasvid.cli.doctor import examine

    findings = examine()
    if as_json:
        print_json([finding.to_json() for finding in findings])
        return
    from nasvid.cli.tables import show_doctor

    show_doctor(findings)


main.add_command(bench)
main.add_command(latency)
