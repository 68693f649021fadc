"""The stages of a run: data, VAE, latents, train, search, evaluate, then those of its subnets.

Each is a function of the run folder. What is there already is not made again, so `nasvid run` goes
on wherever an earlier call stopped, however it stopped.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

from nasvid.data.clips import Clips, clip_index
from nasvid.data.paths import SPLITS, Split
from nasvid.data.shards import ShardIndex
from nasvid.distributed.ranks import Stop
from nasvid.errors import Interrupted, UserError
from nasvid.evaluator import Context
from nasvid.host.display import Display
from nasvid.host.files import write_json
from nasvid.latents.clips import clips_of
from nasvid.recipe.sections import Recipe
from nasvid.run.evaluate import evaluated_with
from nasvid.run.folder import Run
from nasvid.run.held_out import held_out, make_context, trained_supernet
from nasvid.run.parts import Parts
from nasvid.search.driver import Progress, run_search
from nasvid.search.front import write_front
from nasvid.search.goals import write_goals
from nasvid.space import SearchSpace
from nasvid.strategy import RunContext

if TYPE_CHECKING:
    from nasvid.latents.cache import Identity


def data(run: Run, split: Split, display: Display) -> ShardIndex:
    """Index the shards of a split and say what is in them; those from elsewhere are fetched.

    Raises:
        UserError: they are not those that the run began with, or too many samples are unusable.
    """
    index = clip_index(run.recipe, split, run.folder, display)
    summary = run.folder / "data" / f"{split}.json"
    if summary.exists():
        if json.loads(summary.read_text())["fingerprint"] != index.fingerprint:
            raise UserError(
                f"data.{split}: the shards have changed since this run began: bring them back, or "
                "begin another run with --out"
            )
        return index
    for skip in index.skipped:
        run.log({"event": "skip", **asdict(skip)})
    left_out = f"; skipped: {index.left_out()}" if index.skipped else ""
    display.say(f"{split} data: {len(index.clips)} clips{left_out}")
    found = {"fingerprint": index.fingerprint, "clips": len(index.clips)}
    write_json(summary, found | {"skipped": index.reasons()})
    return index


def clips(run: Run, parts: Parts, split: Split, display: Display) -> Clips:
    """Return the clips of a split as the supernet takes them: pixels, or latents."""
    index = data(run, split, display)
    cache = None
    if run.latents is not None:
        from nasvid.latents.cache import open_cache

        indexes: dict[Split, ShardIndex] = {split: data(run, split, display) for split in SPLITS}
        cache = open_cache(run.latents, cache_identity(run.recipe, parts, indexes))
        if missing := cache.missing():
            display.say(f"latents: {missing} samples in {run.latents} are damaged and left out")
    return clips_of(run.recipe, index, split, parts.vae, cache)


def cache_identity(recipe: Recipe, parts: Parts, indexes: Mapping[Split, ShardIndex]) -> Identity:
    """Return what a cache of a recipe's latents must have been made by."""
    from nasvid.latents.cache import Identity

    assert recipe.vae is not None
    assert parts.vae is not None
    return Identity(
        vae=parts.vae.identity,
        text=parts.text.encoder.identity,
        context_len=recipe.data.context_len,
        frames=recipe.data.frames,
        fps=recipe.data.fps,
        flip=recipe.data.flip,
        cuts=recipe.vae.cuts,
        dtype=recipe.vae.dtype,
        seed=recipe.seed,
        resolutions=tuple(sorted(recipe.resolutions)),
        data={split: index.fingerprint for split, index in indexes.items()},
    )


def search(run: Run, display: Display, stop: Stop) -> None:
    """Search the trained supernet and write its front."""
    section = run.recipe.search
    _set_record_aside(run, display)
    parts = Parts.of(run.recipe, run.folder)
    supernet = trained_supernet(run.recipe, parts, run.checkpoints)
    val_clips = clips(run, parts, "val", display)
    write_goals(run.folder / "search" / "goals.json", section)
    with run.stage("search"), display.track("search", section.budget, "subnets") as tracker:

        def judged(progress: Progress) -> None:
            best = ", ".join(f"{name} {value:.4g}" for name, value in progress.best.items())
            tracker.advance(f"best {best}")
            if (signal := stop()) is not None:
                raise Interrupted(signal, "every subnet judged is recorded")

        on = held_out(run.recipe, parts, val_clips)
        write_json(run.folder / "search" / "mean_loss.json", on.mean_loss)
        context = make_context(run.recipe, parts, supernet, on, display)
        result = run_search(
            section,
            context,
            seed=run.recipe.seed,
            record_path=run.record,
            run=_run_context(run, display),
            on_progress=judged,
        )
    for message in result.messages:
        display.say(f"search: {message}")
    write_front(run.front, result, run.recipe.front.subnets)


def search_context(run: Run, display: Display) -> Context:
    """Return what evaluators evaluate the trained supernet's subnets with."""
    parts = Parts.of(run.recipe, run.folder)
    supernet = trained_supernet(run.recipe, parts, run.checkpoints)
    on = held_out(run.recipe, parts, clips(run, parts, "val", display))
    return make_context(run.recipe, parts, supernet, on, display)


def _run_context(run: Run, display: Display) -> RunContext:
    """Return what the run's strategy is told of it; it has a folder of its own for its files."""
    folder = run.folder / "search" / run.recipe.search.strategy.name
    return RunContext(run.recipe.name, folder, display.say)


@contextmanager
def shown_search(
    run: Run, display: Display, options: Mapping[str, object] = MappingProxyType({})
) -> Iterator[None]:
    """Show the search on its strategy's own page while the context lasts.

    options: of the strategy, instead of the recipe's.

    Raises:
        UserError: the strategy has none, or it cannot be shown.
    """
    strategy = run.recipe.search.strategy.with_options(**options)
    with strategy.page(_run_context(run, display)) as address:
        display.say(f"The search is shown at {address}")
        yield


def report(run: Run, display: Display) -> Path:
    """Write report.html."""
    from nasvid.report import write_report

    path = write_report(run.folder)
    display.say(f"report: {path}")
    return path


def described(space: SearchSpace) -> dict[str, Any]:
    """Return a space's choices and layout as plain values: what a report needs to know of it."""
    choices = [
        {"name": choice.name, "options": choice.options, "requires": choice.requires}
        for choice in space.choices
    ]
    layout = space.layout()
    layout.check(space.choices)
    return {"choices": choices, "layout": layout.to_json()}


def _set_record_aside(run: Run, display: Display) -> None:
    """Begin a new record when what evaluated the old one is no longer what the recipe says."""
    path = run.folder / "search" / "evaluated_with.json"
    now = [evaluated_with(run.recipe, section) for section in run.recipe.search.evaluators]
    if run.record.exists() and path.exists() and json.loads(path.read_text()) != now:
        number = len(list(run.record.parent.glob("record*.jsonl")))
        old = run.record.with_name(f"record-{number}.jsonl")
        run.record.replace(old)
        display.say(
            f"search: made with different settings before: a new record (the old: {old.name})"
        )
    write_json(path, now)
