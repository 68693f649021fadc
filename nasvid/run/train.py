"""The train stage: the supernet, trained together with the other ranks."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import nullcontext
from statistics import fmean

from nasvid.data.clips import Clips
from nasvid.data.paths import Split
from nasvid.distributed.ranks import ALONE, Ranks, Stop
from nasvid.evaluator import DenoisingLoss
from nasvid.host.display import Display, Tracker
from nasvid.host.files import write_json
from nasvid.run import init_from, stages
from nasvid.run.folder import Run
from nasvid.run.held_out import held_out, make_context
from nasvid.run.parts import Parts
from nasvid.supernet import Supernet
from nasvid.training import checkpoint, trainer
from nasvid.training.events import Event, StepEvent
from nasvid.training.scalars import scalars
from nasvid.training.trainer import Outside, Trainer


def train(run: Run, display: Display, stop: Stop, ranks: Ranks = ALONE) -> None:
    """Train the supernet, from the newest checkpoint on.

    Raises:
        RankLost: another rank has ended.
    """
    recipe, steps = run.recipe, run.recipe.training.steps
    found = checkpoint.latest(run.checkpoints) if ranks.first else (None, [])
    newest, complaints = ranks.agree(found)
    for complaint in complaints:
        display.say(complaint)
    done = checkpoint.read_progress(newest).step if newest else 0
    if done == steps:
        display.say(f"train: all {steps} steps are made")
        return
    parts = Parts.of(recipe, run.folder)
    train_clips = _clips_in_turn(run, parts, "train", display, stop, ranks)
    resumed = f", from step {done}" if done else ""
    where = f"{parts.device}, {ranks.size} ranks" if ranks.size > 1 else str(parts.device)
    display.say(f"train: {parts.space.describe()}, {steps} steps on {where}{resumed}")
    supernet = parts.supernet(recipe.seed)
    if recipe.supernet is not None and newest is None:
        ranks.first_does(lambda: _evaluate_start(run, parts, display), stop)
        init_from.load_start(recipe.supernet, supernet, reorder=recipe.supernet.reorder)
    if ranks.first:
        write_json(run.folder / "search" / "space.json", stages.described(parts.space))
    evaluate = None
    if recipe.training.keep_best:
        val_clips = _clips_in_turn(run, parts, "val", display, stop, ranks)
        evaluate = _evaluation(run, parts, supernet, val_clips, display)
    made = Trainer.of(recipe, supernet, parts.noiser(), ranks)
    with (
        run.stage("train") if ranks.first else nullcontext(),
        display.track("train", steps, "steps", done) as tracker,
        scalars(run.folder / "tensorboard", recipe, ranks, done) as write,
    ):
        log = step_log(run, tracker, write=write) if ranks.first else _unlogged
        trainer.train(
            made if newest is None else made.resumed(newest),
            train_clips,
            run.checkpoints,
            Outside(log, display.say, stop),
            max_skipped=recipe.data.max_skipped,
            evaluate=evaluate,
        )


def _clips_in_turn(
    run: Run, parts: Parts, split: Split, display: Display, stop: Stop, ranks: Ranks
) -> Clips:
    """Return the clips of a split; rank 0 makes their index, which the others read."""
    made = ranks.first_does(lambda: stages.clips(run, parts, split, display), stop)
    return made or stages.clips(run, parts, split, display)


def _evaluate_start(run: Run, parts: Parts, display: Display) -> None:
    val_clips = stages.clips(run, parts, "val", display)
    init_from.judge_start(run, parts, held_out(run.recipe, parts, val_clips), display)


def _evaluation(
    run: Run, parts: Parts, supernet: Supernet, val_clips: Clips, display: Display
) -> Callable[[], float]:
    """Return what evaluates a supernet while it is trained: the mean loss of its two ends."""
    on = held_out(run.recipe, parts, val_clips)
    context = make_context(run.recipe, parts, supernet, on, display)
    ends = [parts.space.smallest, parts.space.largest]
    evaluator = DenoisingLoss(DenoisingLoss.Config(), context)
    return lambda: fmean(metrics["loss"] for metrics in evaluator.evaluate(ends))


def _unlogged(event: Event) -> None:
    """Leave an event to rank 0, whose is the same."""


def step_log(
    run: Run,
    tracker: Tracker,
    name: str = "step",
    write: Callable[[StepEvent], None] = _unlogged,
) -> Callable[[Event], None]:
    """Return what logs training; steps are shown, written, and logged as events of this name."""
    waited = total = 0.0

    def log(event: Event) -> None:
        nonlocal waited, total
        if not isinstance(event, StepEvent):
            run.log(event.to_json())
            return
        run.log(event.to_json(name))
        write(event)
        waited += event.speed.waited
        total += event.speed.total
        shown = "not finite" if event.loss is None else f"{event.loss:.3f}"
        sides = ", ".join(map(str, event.resolutions))
        tracker.advance(f"loss {shown} at {sides} px, {waited / total:.0%} waiting for data")

    return log
