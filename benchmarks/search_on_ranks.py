"""How long a search takes on two ranks, over one: `python benchmarks/search_on_ranks.py`.

Both evaluate the same architectures on the clips that ship with nasvid, with a supernet that is not
trained; a rank has one thread. They take turns, so that a machine's drift cancels in their ratio.
The records must be equal.
"""

from __future__ import annotations

import json
import os
import socket
import statistics
import tempfile
import time
from pathlib import Path

import click
import torch
from paired import machine

from nasvid.data.clips import clip_index
from nasvid.distributed.ranks import joined
from nasvid.distributed.sharing import lead
from nasvid.evaluator import Context
from nasvid.host.display import Display
from nasvid.preflight import load_recipe
from nasvid.recipe.sections import SearchSection
from nasvid.run.components import Components
from nasvid.run.held_out import held_out, make_context
from nasvid.search.driver import run_search
from nasvid.search.evaluating import Evaluating, Unrecorded

RECIPE = Path(__file__).parents[1] / "recipes" / "sned_pixel.yaml"


def context_of(folder: Path, clips: int) -> Context:
    """Return a context with an untrained supernet of scale `cpu`."""
    loaded = load_recipe(RECIPE, scale="cpu", overrides=[f"search.clips={clips}"])
    components, display = Components(loaded), Display()
    torch.manual_seed(0)
    supernet = components.supernet()
    supernet.net.eval()
    index = clip_index(loaded.recipe, "val", folder, display)
    val = components.clips(index, "val")
    return make_context(components, supernet, held_out(components, val), display)


def search(context: Context, section: SearchSection, record: Path) -> None:
    """Search on all ranks."""
    with joined() as ranks:
        evaluators = [part.make(context) for part in section.evaluators]
        evaluating = Evaluating(evaluators, Unrecorded(record.parent / "unrecorded", ranks))
        lead(
            ranks,
            evaluating.on_any_rank,
            lambda share: run_search(
                section,
                context,
                seed=0,
                record_path=record,
                evaluating=evaluating,
                share=share,
            ),
            lambda: None,
        )


def seconds(
    ranks: int, context: Context, section: SearchSection, record: Path
) -> tuple[float, float]:
    """Search on some ranks, which are forked; return the seconds it takes.

    Then those of a processor that the busiest rank takes: about the same on an idle machine.
    """
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    started = time.perf_counter()
    children = []
    for rank in range(ranks):
        child = os.fork()
        if child == 0:
            os.environ |= {"RANK": f"{rank}", "LOCAL_RANK": f"{rank}", "WORLD_SIZE": f"{ranks}"}
            os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": f"{port}"}
            search(context, section, record)
            os._exit(0)
        children.append(child)
    ended = [os.wait4(child, 0) for child in children]
    assert all(status == 0 for _, status, _ in ended)
    return time.perf_counter() - started, max(u.ru_utime + u.ru_stime for _, _, u in ended)


def lines(record: Path) -> list[dict[str, object]]:
    """Return a record's lines, without how long each evaluation took."""
    return [json.loads(line) | {"seconds": 0} for line in record.read_text().splitlines()]


@click.command()
@click.option("--rounds", default=7, show_default=True)
@click.option("--budget", default=48, show_default=True)
@click.option("--clips", default=80, show_default=True)
@click.option("--ranks", default=2, show_default=True)
def main(rounds: int, budget: int, clips: int, ranks: int) -> None:
    """Time a search on one rank and on several, in turn."""
    torch.set_num_threads(1)
    click.echo(machine())
    with tempfile.TemporaryDirectory() as folder:
        context = context_of(Path(folder), clips)
        recipe = load_recipe(RECIPE, scale="cpu").recipe
        section = recipe.search.model_copy(update={"budget": budget, "clips": clips})
        ratios: list[tuple[float, float]] = []
        for number in range(rounds):
            records = [Path(folder) / f"{number}-{n}" / "record.jsonl" for n in (1, ranks)]
            one = seconds(1, context, section, records[0])
            several = seconds(ranks, context, section, records[1])
            assert lines(records[0]) == lines(records[1]), "the records differ"
            ratios.append((several[0] / one[0], several[1] / one[1]))
            click.echo(f"{one[0]:.1f} s on one rank, {several[0]:.1f} s on {ranks}")
    for what, each in zip(
        ("time", "processor of the busiest"), zip(*ratios, strict=True), strict=True
    ):
        low, middle, high = statistics.quantiles(each, n=4)
        click.echo(f"{what}: ratio {middle:.2f} [{low:.2f} to {high:.2f}]")
    click.echo("all records are equal")


if __name__ == "__main__":
    main()
