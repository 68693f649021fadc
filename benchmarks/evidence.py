"""Compares what subnets inherit from a supernet with the same architectures trained alone.

    python benchmarks/evidence.py runs/study-0 runs/study-1 --plot docs/media/cost_against_loss.svg

`nasvid rank` has been called on the runs, and `nasvid finetune` if there is to be a third kind.
Prints a table of the architectures, the ratios and correlations of each run, and the training FLOPs
of the supernet over those of eight trainings alone. `--plot FILE` draws loss against MACs, all runs
together.
"""

from __future__ import annotations

import statistics
from collections.abc import Iterator, Mapping, Sequence
from itertools import combinations
from pathlib import Path
from typing import Any

import click
import numpy as np
from curves import Dots, draw_dots

from nasvid.errors import UserError
from nasvid.host.files import atomic_path
from nasvid.host.reading import read_json, read_lines
from nasvid.run.folder import RunFolder
from nasvid.run.rank import read_ranking
from nasvid.search.agreement import FEWEST, tau, tau_in_bands

BUDGETS = 8
"""Budgets at which a team would otherwise train a model each."""
KINDS = ("inherited", "fine-tuned", "alone")
ENDS = ("inherited", "alone")


@click.command()
@click.argument("runs", nargs=-1, required=True, type=click.Path(path_type=Path, exists=True))
@click.option("--plot", type=click.Path(path_type=Path), help="SVG file to draw.")
def main(runs: tuple[Path, ...], plot: Path | None) -> None:
    try:
        _show(runs, plot)
    except UserError as error:
        raise click.UsageError(str(error)) from None


def _show(runs: Sequence[Path], plot: Path | None) -> None:
    rankings = {run: _ranking(RunFolder(run)) for run in runs}
    found = {run: _rows(RunFolder(run), ranking) for run, ranking in rankings.items()}
    for run, rows in found.items():
        print(f"\n{run}\n\n" + "\n".join(_table(rows)) + "\n")
        print("\n".join(_summary(RunFolder(run), rankings[run], rows)))
    if len(found) > 1:
        print(f"\nmean of {len(found)} runs\n")
        alike = len({str(_compared(ranking)) for ranking in rankings.values()}) == 1
        differ = ["none: they differ in architectures, steps or how losses are measured"]
        print("\n".join(_over_runs([*found.values()]) if alike else differ))
    if plot:
        every = [row for rows in found.values() for row in rows]
        with atomic_path(plot) as temporary:
            svg = draw_dots([*_dots(every)], x="MACs, millions", y="held-out loss")
            temporary.write_text(svg, encoding="utf-8")


def _ranking(folder: RunFolder) -> dict[str, Any]:
    ranking = read_ranking(folder)
    if ranking is None or ranking["agreement"] is None:
        raise click.UsageError(f"{folder.path} has no finished ranking; run nasvid rank on it")
    return ranking


def _compared(ranking: Mapping[str, Any]) -> tuple[Any, ...]:
    """Return what rankings must share to be averaged: architectures, and what losses depend on."""
    return ranking["settings"], sorted(row["id"] for row in ranking["subnets"])


def _rows(folder: RunFolder, ranking: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Return the ranking's architectures, ascending in MACs, with their losses by kind."""
    tuned = _finetuned(folder)
    rows = [
        {
            "id": row["id"],
            "macs": row["macs"],
            "inherited": row["inherited"]["loss"],
            "fine-tuned": tuned.get(row["id"]),
            "alone": row["alone"]["loss"],
        }
        for row in ranking["subnets"]
    ]
    return sorted(rows, key=lambda row: row["macs"])


def _finetuned(folder: RunFolder) -> dict[str, float]:
    """Return the losses of fine-tuned subnets, by id."""
    found = read_json(folder.finetune / "finetuned.json", lambda content: content["subnets"])
    return {entry["id"]: entry["after"]["loss"] for entry in found or []}


def _table(rows: Sequence[Mapping[str, Any]]) -> Iterator[str]:
    yield "| subnet | MACs | inherited | fine-tuned | alone | inherited / alone |"
    yield "|---|---|---|---|---|---|"
    for row in rows:
        losses = [f"{row[kind]:.4f}" if row[kind] else "" for kind in KINDS]
        ratio = f"{row['inherited'] / row['alone']:.3f}"
        yield f"| {row['id'][:6]} | {row['macs'] / 1e6:.1f}M | {' | '.join([*losses, ratio])} |"


def _summary(
    folder: RunFolder, ranking: Mapping[str, Any], rows: Sequence[Mapping[str, Any]]
) -> Iterator[str]:
    agreement = ranking["agreement"]
    ratio = agreement["ratio"]
    yield "inherited / alone: median {median:.3f}, most {max:.3f}, largest {largest:.3f}".format(
        **ratio
    )
    for name, found in agreement["predictors"].items():
        yield f"{name}: {_listed({key: value and value[0] for key, value in found.items()})}"
    tuned = [row["fine-tuned"] / row["alone"] for row in rows if row["fine-tuned"]]
    if tuned:
        yield f"fine-tuned / alone: median {statistics.median(tuned):.3f}, most {max(tuned):.3f}"
    events, _ = read_lines(folder.events, lambda event: event)
    steps = {e["step"]: e["flops"] for e in events if e["event"] == "step"}
    alone = [e["flops"] / e.get("steps", 1) for e in events if e["event"] == "rank_step"]
    if not steps or not alone:
        yield f"training FLOPs: unknown, because {folder.events} lacks them"
        return
    eight = BUDGETS * ranking["settings"]["steps"] * statistics.fmean(alone)
    share = sum(steps.values()) / eight
    yield f"training FLOPs: {share:.2f} of those of {BUDGETS} trainings alone of average cost"


def _over_runs(runs: Sequence[Sequence[Mapping[str, Any]]]) -> Iterator[str]:
    """Compare means over runs of the same architectures, and the runs' trainings alone.

    The latter tell what can be reached: no supernet can predict the chance in one training.
    """
    inherited, alone = (np.array([[row[kind] for row in rows] for rows in runs]) for kind in ENDS)
    macs = np.array([row["macs"] for row in runs[0]])
    ratio = inherited.mean(axis=0) / alone.mean(axis=0)
    yield f"inherited / alone: median {np.median(ratio):.3f}, most {ratio.max():.3f}"
    for name, predicted in {"inherited": inherited.mean(axis=0), "macs": -macs}.items():
        yield f"{name}: {_taus(predicted, alone.mean(axis=0), macs)}"
    pairs = [
        (_taus(predicted, found, macs), kind, a, b)
        for kind, predictions in {"inherited": inherited, "alone": alone}.items()
        for a, predicted in enumerate(predictions)
        for b, found in enumerate(alone)
        if kind == "inherited" or a < b
    ]
    for a, b in combinations(range(len(runs)), 2):
        taus = _taus(inherited[a], inherited[b], macs)
        yield f"inherited of run {a + 1} against inherited of run {b + 1}: {taus}"
    for taus, kind, a, b in pairs:
        yield f"{kind} of run {a + 1} against alone of run {b + 1}: {taus}"


def _taus(predicted: np.ndarray, found: np.ndarray, macs: np.ndarray) -> str:
    if len(found) < FEWEST:
        return _listed({"tau": None, "tau_in_bands": None})
    overall, in_bands = tau(predicted, found), tau_in_bands(predicted, found, macs)
    return _listed({"tau": float(overall), "tau_in_bands": float(in_bands)})


def _listed(values: Mapping[str, float | None]) -> str:
    """Return correlations in words; None or nan is one that is not defined."""
    return ", ".join(
        f"{name} not defined" if value is None or np.isnan(value) else f"{name} {value:.2f}"
        for name, value in values.items()
    )


def _dots(rows: Sequence[Mapping[str, Any]]) -> Iterator[Dots]:
    for kind in KINDS:
        found = [(row["macs"] / 1e6, row[kind]) for row in rows if row[kind]]
        if found:
            yield Dots(kind, found)


if __name__ == "__main__":
    main()
