"""The tables that commands print."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from rich.markup import escape
from rich.table import Table

from nasvid.host.console import Console
from nasvid.host.terminal import one_line, say
from nasvid.host.words import bytes_text, counted, quantity

if TYPE_CHECKING:
    from nasvid.cli.doctor import Finding
    from nasvid.data.inspect import Inspection, Spread, Use
    from nasvid.recipe.sections import DataSection
    from nasvid.run.bench import Row

WIDTH = 160
"""Columns if there is no terminal."""


def show_table(title: str, columns: Sequence[str], rows: Iterable[Sequence[object]]) -> None:
    """Print a table, columns of numbers to the right."""
    cells = [[str(cell) for cell in row] for row in rows]
    table = Table(box=None, pad_edge=False)
    for i, name in enumerate(columns):
        numeric = all(row[i][:1].isdigit() or row[i] == "-" for row in cells)
        table.add_column(name, justify="right" if numeric else "left", overflow="fold")
    for row in cells:
        table.add_row(*map(escape, row))
    if title:
        say(title)
    _console().print(table)


def show_bench(where: str, rows: Sequence[Row]) -> None:
    """Print how fast training steps were."""
    columns = ("engine", "resolution", "ranks", "clips", "subnets", "ms per step", "steps/s")
    columns += ("videos/s", "FLOP/s", "of peak", "waiting", "peak memory")
    show_table(
        f"Training steps on {where}",
        columns,
        [
            (
                *(row.engine, row.resolution, row.ranks, row.clips, row.subnets),
                *(f"{1e3 * row.seconds:.0f}", quantity(1 / row.seconds)),
                quantity(row.clips / row.seconds),
                quantity(round(row.flops)) if row.flops else "-",
                f"{row.utilization:.0%}" if row.utilization is not None else "-",
                *(f"{row.waiting:.0%}", bytes_text(row.memory)),
            )
            for row in rows
        ],
    )


def show_importance(found: Mapping[str, Any]) -> None:
    """Print what changes without each block, and how much each group of units carries."""
    columns = ("without", "loss", "outputs", "features")
    rows = [
        (block["name"], *(_change(block[key]) for key in ("loss", "outputs", "features")))
        for block in found["blocks"]
    ]
    show_table(f"What changes without a block, on {counted(found['clips'], 'clip')}", columns, rows)
    say()
    show_table(
        "What the loss would change without units, to first order",
        ("units", "number", "all", "the most"),
        [
            (units["name"], str(units["count"]), _change(units["loss"]), _change(units["most"]))
            for units in found["units"]
        ],
    )


def _change(value: float | None) -> str:
    return "" if value is None else f"{value:.4g}"


def show_ranking(found: Mapping[str, Any]) -> None:
    """Print the losses of architectures in the supernet and alone, and how they agree."""
    columns = ("subnet", "parameters", "MACs", "inherited loss", "alone", "inherited / alone")
    rows = sorted(found["subnets"], key=lambda row: row["macs"])
    show_table(
        f"Trained alone for {counted(found['settings']['steps'], 'step')}",
        columns,
        [
            (
                *(row["id"], quantity(row["params"]), quantity(row["macs"])),
                *(f"{row['inherited']['loss']:.4f}", f"{row['alone']['loss']:.4f}"),
                f"{row['inherited']['loss'] / row['alone']['loss']:.3f}",
            )
            for row in rows
        ],
    )
    agreement = found["agreement"]
    pairs = agreement["pairs"]
    say()
    show_table(
        "How well the loss alone is predicted, with 95% intervals",
        (
            "by",
            f"Kendall's tau ({counted(pairs['all'], 'pair')})",
            "Spearman's rho",
            f"tau at equal cost ({counted(pairs['in_bands'], 'pair')})",
        ),
        [
            (PREDICTORS[name], *(_estimate(each[key]) for key in ("tau", "rho", "tau_in_bands")))
            for name, each in agreement["predictors"].items()
        ],
    )
    ratio = agreement["ratio"]
    say(
        f"\ninherited / alone: median {ratio['median']:.3f}, maximum {ratio['max']:.3f}, "
        f"the largest's {ratio['largest']:.3f}"
    )


PREDICTORS = {"inherited": "inherited loss", "macs": "MACs", "params": "parameters"}
"""What may predict the loss alone -> its readable name."""


def _estimate(found: Sequence[float] | None) -> str:
    if found is None:
        return "-"
    value, low, high = found
    return f"{value:.2f} [{low:.2f} to {high:.2f}]"


def show_plugin(plugin: Mapping[str, str], options: Sequence[Mapping[str, Any]]) -> None:
    """Print a plug-in's documentation and options."""
    say(f"{plugin['kind']}/{plugin['name']} from {plugin['source']} ({plugin['target']})\n")
    say(f"{plugin['text']}\n")
    if not options:
        say("No options.")
        return
    rows = []
    for option in options:
        default = "required" if option["required"] else json.dumps(option["default"])
        rows.append((option["name"], option["type"], default, option["description"]))
    show_table("", ("option", "type", "default", "meaning"), rows)


def show_doctor(findings: Sequence[Finding]) -> None:
    """Print what this machine has, what it lacks and how to get it."""
    rows = [(f.name, "ok" if f.ok else "absent", f.found, f.advice) for f in findings]
    show_table("", ("", "", "found", "what to do"), rows)


def show_inspection(found: Inspection) -> None:
    """Print what is in shards."""
    clips, shards = counted(found.clips, "clip"), counted(found.shards, "shard")
    images = f" ({counted(found.images, 'image')})" if found.images else ""
    say(f"{clips}{images} in {shards}, {bytes_text(found.bytes)}")
    for reason, count in [*found.skipped.items(), *found.broken.items()]:
        say(f"unusable: {count}: {reason}")
    if not found.clips:
        return
    say(f"captions: {_spread(found.words)} words; most frequent: {', '.join(found.frequent)}")
    for caption in found.examples:
        say(f"  {one_line(caption)}")
    say(f"{counted(found.sampled, 'clip')} opened:")
    if not found.resolutions:
        return
    say(f"  pixels: {_counts(found.resolutions)}")
    say(f"  frames per second: {_counts(found.rates)}")
    say(f"  frames: {_spread(found.frames)}; seconds: {_spread(found.seconds)}")


def show_use(section: DataSection, uses: Sequence[Use]) -> None:
    """Print how many clips a recipe can use at each resolution, and why not the others.

    section: of the recipe.
    """
    say(f"the recipe takes {section.frames} frames at {section.fps:g} per second:")
    for use in uses:
        frames = use.resolution.frames_or(section.frames)
        why = {"too short": f"too short, with fewer than {frames} frames"}
        notes = [f"{count}: {why.get(reason, reason)}" for reason, count in use.unusable.items()]
        notes += [f"{use.enlarged} are smaller and are enlarged"] if use.enlarged else []
        notes += [f"{use.slower} are slower, and keep their own rate"] if use.slower else []
        say("; ".join([f"  {use.resolution.label}: {use.usable} of {use.opened} usable", *notes]))


def _spread(spread: Spread) -> str:
    return f"{spread.least:.3g} to {spread.greatest:.3g}, median {spread.median:.3g}"


def _counts(counts: Mapping[str, int]) -> str:
    shown = [f"{name} ({count})" for name, count in list(counts.items())[:5]]
    return ", ".join(shown) + (", ..." if len(counts) > 5 else "")


def _console() -> Console:
    console = Console(highlight=False)
    return console if console.is_terminal else Console(highlight=False, width=WIDTH)
