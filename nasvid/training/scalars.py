"""Training's measurements for TensorBoard, which is imported only here."""

from __future__ import annotations

import io
import os
import socket
import time
from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from typing import Any

from nasvid.distributed.ranks import Ranks
from nasvid.host.files import NotWritten, append
from nasvid.recipe.sections import Recipe
from nasvid.training.events import StepEvent

Write = Callable[[StepEvent], None]


def scalars(
    folder: Path, recipe: Recipe, ranks: Ranks, done: int, report: Callable[[str], None]
) -> Write:
    """Return a function that writes a step's event to `folder`, if the recipe enables it.

    A full disk loses these events and nothing else.

    done: number of earlier steps; later ones, written by an interrupted run, are superseded.
    report: receives a line for people when events are lost.
    """
    if not (recipe.training.tensorboard and ranks.is_rank0):
        return lambda event: None
    events = _Events(folder, done)
    lost = False

    def write(event: StepEvent) -> None:
        nonlocal lost
        try:
            events.write(event)
            lost = False
        except NotWritten as error:
            if not lost:
                report(f"{error}; training goes on, and TensorBoard will not show these steps")
            lost = True

    return write


class _Events:
    """A file of TensorBoard's events; each step's are in it whole or not at all.

    TensorBoard's own writer is a thread, which ends with a traceback when the disk is full.
    """

    def __init__(self, folder: Path, done: int) -> None:
        name = f"events.out.tfevents.{time.time():010.0f}.{socket.gethostname()}.{os.getpid()}"
        self._path = folder / name
        self._proto: Any = import_module("tensorboard.compat.proto.event_pb2")
        began = self._proto.SessionLog(status=self._proto.SessionLog.START)
        self._first = [
            self._proto.Event(file_version="brain.Event:2"),
            self._proto.Event(step=done, session_log=began),
        ]

    def write(self, event: StepEvent) -> None:
        """Append an event's numbers.

        Raises:
            NotWritten: the disk is full.
        """
        from torch.utils.tensorboard.summary import scalar

        numbers = _scalars(event).items()
        values = [scalar(name, value) for name, value in numbers]
        made = [self._proto.Event(step=event.step, summary=value) for value in values]
        append(self._path, _records([*self._first, *made]))
        self._first = []


def _records(events: list[Any]) -> bytes:
    from tensorboard.summary.writer.record_writer import RecordWriter

    buffer = io.BytesIO()
    writer = RecordWriter(buffer)
    for event in events:
        event.wall_time = time.time()
        writer.write(event.SerializeToString())
    return buffer.getvalue()


def _scalars(event: StepEvent) -> dict[str, float]:
    """Return an event's numbers by their TensorBoard names, without the missing ones."""
    speed = event.speed
    found = {
        "loss/mean": event.loss,
        "training/grad_norm": event.grad_norm,
        "training/learning_rate": event.learning_rate,
        "speed/steps_per_second": 1 / speed.total,
        "speed/videos_per_second": event.clips / speed.total,
        "speed/flops_per_second": speed.flops / speed.total if speed.flops else None,
        "speed/utilization": speed.utilization,
        "speed/waiting_for_data": speed.waited / speed.total,
        "memory/peak_bytes": speed.memory,
    }
    for group in event.groups if event.loss is not None else ():
        for role, loss in group.losses.items():
            found[f"loss_at_{group.resolution}/{role}"] = loss
    return {name: value for name, value in found.items() if value is not None}
