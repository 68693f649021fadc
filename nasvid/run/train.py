"""The stage that trains the supernet, on one process or on all ranks."""

from __future__ import annotations

import json
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import asdict
from statistics import fmean
from typing import Any

from nasvid.host.display import Tracker
from nasvid.host.files import write_json
from nasvid.host.machine import low_shared_memory
from nasvid.host.reading import as_object
from nasvid.host.words import counted
from nasvid.metrics.loss import DenoisingLoss
from nasvid.run.folder import RunFolder
from nasvid.run.init_from import evaluate_start, load_start
from nasvid.run.session import Session
from nasvid.space import SearchSpace
from nasvid.supernet import Supernet
from nasvid.training import checkpoint, trainer
from nasvid.training.events import Event, StepEvent
from nasvid.training.scalars import scalars
from nasvid.training.trainer import Outside, Trainer


def train(session: Session) -> None:
    """Train the supernet from the newest checkpoint, together with the other ranks.

    Raises:
        RankLost: another rank has ended.
    """
    recipe, components, folder = session.recipe, session.components, session.folder
    steps, ranks, display = recipe.training.steps, session.ranks, session.display
    found = checkpoint.latest(folder.checkpoints) if ranks.is_rank0 else (None, [])
    newest, complaints = ranks.agree(found)
    for complaint in complaints:
        display.say(complaint)
    done = checkpoint.read_progress(newest).step if newest else 0
    ranks.rank0_does(lambda: _write_facts(session, is_new=newest is None), session.stop)
    if done == steps:
        display.say(f"train: {steps} of {counted(steps, 'step')} done")
        return
    ranks.rank0_does(lambda: checkpoint.best_of(folder.checkpoints), session.stop)  # is readable
    if recipe.data.workers and (low := low_shared_memory()):
        display.say(f"train: {low}")
    clips = session.in_turn(lambda: session.clips("train"))
    resumed = f", from step {done}" if done else ""
    where = f"{components.device}, {ranks.size} ranks" if ranks.size > 1 else components.device
    display.say(
        f"train: {components.space.describe()}, {counted(steps, 'step')} on {where}{resumed}"
    )
    supernet = components.supernet()
    if recipe.supernet is not None and newest is None:
        load_start(recipe.supernet, supernet, reorder=recipe.supernet.reorder)
    evaluate = _evaluation(session, supernet) if recipe.training.keep_best else None
    made = Trainer.of(recipe, supernet, components.noiser(), ranks)
    with (
        folder.logged("train") if ranks.is_rank0 else nullcontext(),
        display.track("train", steps, "steps", done) as tracker,
    ):
        write = scalars(folder.path / "tensorboard", recipe, ranks, done, display.say)
        log = step_log(folder, tracker, write=write) if ranks.is_rank0 else _unlogged
        trainer.train(
            made if newest is None else made.resumed(newest),
            clips,
            folder.checkpoints,
            Outside(log, display.say, session.stop),
            max_skipped=recipe.data.max_skipped,
            evaluate=evaluate,
        )


def _write_facts(session: Session, *, is_new: bool) -> None:
    """Write what the report says of training: the space, and subnets' losses before it began."""
    path = session.folder.train / "space.json"
    now = json.loads(json.dumps(described(session.components.space)))
    before = session.made_again(path, as_object)
    if before != now:
        if before is not None:
            session.display.say(f"{path} describes another space and is made again")
        write_json(path, now)
    evaluate_start(session, is_new=is_new)


def described(space: SearchSpace) -> dict[str, Any]:
    """Return a space's choices and layout as plain values, for the report."""
    layout = space.layout()
    layout.check(space.choices)
    return {"choices": [asdict(choice) for choice in space.choices], "layout": layout.to_json()}


def _evaluation(session: Session, supernet: Supernet) -> Callable[[], float]:
    """Return a function that evaluates the supernet: the mean loss of largest and smallest."""
    session.in_turn(lambda: session.clips("val"))
    space = session.components.space
    evaluator = DenoisingLoss(DenoisingLoss.Config(), session.context(supernet))
    ends = [space.smallest, space.largest]
    return lambda: fmean(metrics["loss"] for metrics in evaluator.evaluate(ends))


def _unlogged(event: Event) -> None:
    """Ignore an event, which rank 0 logs."""


def step_log(
    folder: RunFolder,
    tracker: Tracker,
    name: str = "step",
    write: Callable[[StepEvent], None] = _unlogged,
) -> Callable[[Event], None]:
    """Return a function that logs training: steps are shown, written, and logged as `name`."""
    waited = total = 0.0

    def log(event: Event) -> None:
        nonlocal waited, total
        if not isinstance(event, StepEvent):
            folder.log(event.to_json())
            return
        folder.log(event.to_json(name))
        write(event)
        waited += event.speed.waited
        total += event.speed.total
        shown = "not finite" if event.loss is None else f"{event.loss:.3f}"
        sides = ", ".join(map(str, event.resolutions))
        tracker.advance(f"loss {shown} at {sides} px, {waited / total:.0%} waiting for data")

    return log
