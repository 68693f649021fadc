"""Training within a run: from the newest checkpoint, with its progress shown and steps logged."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path

from nasvid.distributed.ranks import Ranks
from nasvid.host.display import Tracker
from nasvid.run.folder import RunFolder
from nasvid.run.session import Session
from nasvid.training import checkpoint, trainer
from nasvid.training.events import Event, StepEvent
from nasvid.training.step_lines import StepLines
from nasvid.training.trainer import Outside, Trainer


def _ignored(event: Event) -> None:
    """Do nothing with an event."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Shown:
    """How a training appears in a run.

    stage: in the log. title: of its progress. event: the name under which its steps are logged.
    write: also receives each step, on rank 0.
    """

    stage: str
    title: str
    event: str
    write: Callable[[StepEvent], None] = _ignored


def newest_checkpoint(session: Session, folder: Path, ranks: Ranks) -> Path | None:
    """Return the newest intact checkpoint, the same on all ranks; say which are damaged."""
    found = checkpoint.latest(folder) if ranks.is_rank0 else (None, [])
    newest, complaints = ranks.agree(found)
    for complaint in complaints:
        session.display.say(complaint)
    return newest


def train_from(
    session: Session,
    newest: Path | None,
    made: Trainer,
    folder: Path,
    shown: Shown,
    evaluate: Callable[[], float] | None = None,
) -> None:
    """Make the steps that follow a checkpoint, or all, on all ranks of the trainer.

    folder: for checkpoints. evaluate: see `nasvid.training.trainer.train`.

    Raises:
        UserError, Interrupted, RankLost: see there.
    """
    if newest is not None:
        made = made.resumed(newest)
    display, is_rank0 = session.display, made.ranks.is_rank0
    with (
        session.folder.logged(shown.stage) if is_rank0 else nullcontext(),
        display.track(shown.title, made.settings.steps, "steps", made.progress.step) as tracker,
    ):
        lines = StepLines(shown.event, made.settings.checkpoint_every)
        log = _step_log(session.folder, tracker, shown, lines) if is_rank0 else _ignored
        try:
            trainer.train(
                made,
                session.clips("train"),
                folder,
                Outside(log, display.say, session.stop),
                max_skipped=session.recipe.data.max_skipped,
                evaluate=evaluate,
            )
        finally:
            for line in lines.rest():
                session.folder.log(line)


def _step_log(
    folder: RunFolder, tracker: Tracker, shown: Shown, lines: StepLines
) -> Callable[[Event], None]:
    """Return a function that logs a training's events, and shows its steps."""
    waited = total = 0.0

    def log(event: Event) -> None:
        nonlocal waited, total
        if not isinstance(event, StepEvent):
            folder.log(event.to_json())
            return
        for line in lines.add(event):
            folder.log(line)
        shown.write(event)
        waited += event.speed.waited
        total += event.speed.total
        loss = "not finite" if event.loss is None else f"{event.loss:.3f}"
        resolutions = ", ".join(each.label for each in event.resolutions)
        tracker.advance(f"loss {loss} at {resolutions}, {waited / total:.0%} waiting for data")

    return log
