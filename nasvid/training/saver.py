"""The checkpoints of a training: copied while it pauses, written while it goes on."""

from __future__ import annotations

import time
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor, wait
from dataclasses import dataclass, replace
from pathlib import Path
from types import TracebackType
from typing import Any

from nasvid.host.files import NotWritten
from nasvid.recipe.sections import TrainingSection
from nasvid.training.checkpoint import Trained
from nasvid.training.events import CheckpointEvent
from nasvid.training.progress import Progress
from nasvid.training.saving import Content, Place, Writing, save
from nasvid.training.staging import Staging


def copies_any(settings: TrainingSection, step: int = 0) -> bool:
    """Return whether any checkpoint after a step is copied, and written while training goes on.

    Training waits for the last one, and for those that it evaluates.
    """
    every = settings.checkpoint_every
    return not settings.keep_best and (step // every + 1) * every < settings.steps


@dataclass(slots=True)
class _Flight:
    """A checkpoint that a thread writes.

    outcome: of the step that the thread makes. began: when. paused: seconds that training paused.
    """

    writing: Writing
    outcome: Future[Any]
    began: float
    paused: float


class Saver:
    """Writes a training's checkpoints, one at a time: the next one waits for the one before.

    All ranks call the same methods after the same steps. The state is copied in the main thread,
    each rank its own part, and another thread writes the copies. Training then asks before each
    step whether all ranks are `ready`, and lets them `proceed`.

    log: receives an event of each checkpoint that is written. report: a line for each that is not.
    """

    def __init__(
        self,
        place: Place,
        trained: Trained,
        log: Callable[[CheckpointEvent], None],
        report: Callable[[str], None],
    ) -> None:
        self._place, self._trained = place, trained
        self._log, self._report = log, report
        self._staging = Staging(next(trained.net.parameters()).device)
        self._thread = ThreadPoolExecutor(1, "checkpoints")
        self._prepared: Future[None] | None = None
        self._flight: _Flight | None = None
        self._kept = -1

    def __enter__(self) -> Saver:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        at: TracebackType | None,
    ) -> None:
        """Finish the checkpoint if training has failed, unless other ranks have to help."""
        del error, at
        try:
            if kind is not None and issubclass(kind, Exception) and self._place.ranks.size == 1:
                self.finish()
        finally:
            if self._flight is not None:
                self._flight.writing.abandon()
            self._thread.shutdown()
            self._staging.close()

    @property
    def ready(self) -> bool:
        """Whether this rank has done its part, and waits for the others."""
        return self._flight is not None and self._flight.outcome.done()

    def prepare(self, *, ages: bool) -> None:
        """Let the memory for copies be allocated while training goes on.

        ages: whether some steps leave weights out, so that each has an age of its own.
        """
        content = Content.of(self._trained, Progress(), self._place.ranks)
        self._prepared = self._thread.submit(self._staging.make_room, content.size(ages=ages))

    def begin(self, progress: Progress) -> None:
        """Copy the state, and let it be written while training goes on.

        Raises:
            RankLost: another rank has ended.
        """
        self.finish()
        began = time.perf_counter()
        if self._prepared is not None:
            self._prepared.result()
        content = Content.of(self._trained, progress, self._place.ranks)
        copied = replace(content, files=self._staging.copies(content.files))
        made = Writing(self._place, copied)
        outcome = self._thread.submit(made.make)
        self._flight = _Flight(made, outcome, began, time.perf_counter() - began)

    def proceed(self) -> None:
        """Go on with the checkpoint, for which all ranks are ready; report if it fails.

        Raises:
            RankLost: another rank has ended.
        """
        flight = self._flight
        assert flight is not None
        began = time.perf_counter()
        try:
            flight.writing.exchange(flight.outcome.result())
        except NotWritten as error:
            self._flight = None
            self.failed(error)
            return
        if flight.writing.step is not None:
            flight.outcome = self._thread.submit(flight.writing.make)
        flight.paused += time.perf_counter() - began
        if flight.writing.step is None:
            self._flight = None
            self._written(flight.writing.path, flight.began, flight.paused)

    def finish(self) -> None:
        """Wait until the checkpoint that is being written, if there is one, is or has failed.

        Raises:
            RankLost: another rank has ended.
        """
        while (flight := self._flight) is not None:
            began = time.perf_counter()
            wait([flight.outcome])
            flight.paused += time.perf_counter() - began
            self.proceed()

    def save(self, progress: Progress) -> Path:
        """Write a checkpoint while training waits, after the one that is being written.

        Raises:
            NotWritten: it cannot be written.
            RankLost: another rank has ended.
        """
        self.finish()
        began = time.perf_counter()
        path = save(self._place, self._trained, progress)
        self._written(path, began, time.perf_counter() - began)
        return path

    def keep(self, progress: Progress) -> None:
        """Write a checkpoint as `save` does, unless there is one of this step.

        Raises:
            NotWritten, RankLost: see there.
        """
        self.finish()
        if self._kept != progress.step:
            self.save(progress)

    def failed(self, error: NotWritten) -> None:
        """Report that a checkpoint could not be written, which ends nothing."""
        self._report(f"{error}; training goes on to the next checkpoint")

    def _written(self, path: Path, began: float, paused: float) -> None:
        self._kept = int(path.name.removeprefix("step-"))
        self._log(CheckpointEvent(self._kept, time.perf_counter() - began, paused))
