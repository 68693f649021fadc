"""The stage that trains the supernet, on one process or on all ranks."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import asdict
from statistics import fmean
from typing import Any

from nasvid.host.files import write_json
from nasvid.host.machine import low_shared_memory
from nasvid.host.reading import as_object
from nasvid.host.words import counted
from nasvid.metrics.loss import DenoisingLoss
from nasvid.run.init_from import evaluate_start, load_start
from nasvid.run.loop import Shown, newest_checkpoint, train_from
from nasvid.run.parts import note_parts
from nasvid.run.session import Session
from nasvid.run.teacher import load_teacher
from nasvid.space import SearchSpace
from nasvid.supernet import Supernet
from nasvid.training import checkpoint
from nasvid.training.scalars import scalars
from nasvid.training.trainer import Trainer


def train(session: Session) -> None:
    """Train the supernet from the newest checkpoint, together with the other ranks.

    Raises:
        RankLost: another rank has ended.
    """
    recipe, components, folder = session.recipe, session.components, session.folder
    steps, ranks, display = recipe.training.steps, session.ranks, session.display
    newest = newest_checkpoint(session, folder.checkpoints, ranks)
    done = checkpoint.read_progress(newest).step if newest else 0
    ranks.rank0_does(lambda: _write_facts(session, is_new=newest is None), session.stop)
    if done == steps:
        display.say(f"train: {steps} of {counted(steps, 'step')} done")
        return
    ranks.rank0_does(lambda: checkpoint.best_of(folder.checkpoints), session.stop)  # is readable
    if recipe.data.workers and (low := low_shared_memory()):
        display.say(f"train: {low}")
    session.in_turn(lambda: session.clips("train"))
    resumed = f", from step {done}" if done else ""
    where = f"{components.device}, {ranks.size} ranks" if ranks.size > 1 else components.device
    display.say(
        f"train: {components.space.describe()}, {counted(steps, 'step')} on {where}{resumed}"
    )
    supernet = components.supernet()
    if recipe.supernet is not None and newest is None:
        start = recipe.supernet
        load_start(start, supernet, reorder=bool(start.reorder), scores=components.unit_order)
    evaluate = _evaluation(session, supernet) if recipe.training.keep_best else None
    teacher = load_teacher(components, recipe.training.teacher, "training.teacher")
    made = Trainer.of(recipe, supernet, components.noiser(), ranks, teacher)
    write = scalars(folder.path / "tensorboard", recipe, ranks, done, display.say)
    shown = Shown(stage="train", title="train", event="step", write=write)
    train_from(session, newest, made, folder.checkpoints, shown, evaluate)


def _write_facts(session: Session, *, is_new: bool) -> None:
    """Write what the report says of training: the space, and subnets' losses before it began."""
    path = session.folder.train / "space.json"
    now = json.loads(json.dumps(described(session.components.space)))
    before = session.made_again(path, as_object)
    if before != now:
        if before is not None:
            session.display.say(f"{path} describes another space and is made again")
        write_json(path, now)
    note_parts(session, is_new=is_new)
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
