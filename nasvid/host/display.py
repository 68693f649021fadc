"""Progress of a run on standard output: a progress bar in a terminal, plain lines elsewhere."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager

from rich.markup import escape
from rich.progress import BarColumn, Progress, Task, TextColumn, TimeRemainingColumn
from rich.table import Column
from rich.text import Text

from nasvid.host.console import Console
from nasvid.host.terminal import say, shown
from nasvid.host.words import quantity

PLAIN_EVERY = 15.0
"""Seconds between progress lines if there is no terminal."""


class Tracker:
    """The progress of one long task: how much is done, how fast, and the last note."""

    def __init__(self, title: str, total: int, unit: str, done: int, bar: Progress | None) -> None:
        self._title, self._total, self._unit = title, total, unit
        self._first, self._done = done, done
        self._started = self._shown = time.monotonic()
        self._bar = bar
        self._task = bar.add_task(title, total=total, completed=done, note="") if bar else None

    def advance(self, note: str = "", n: int = 1) -> None:
        """Count `n` more units as done; `note` is shown beside them (`loss 0.12`)."""
        self._done += n
        now = time.monotonic()
        rate = (self._done - self._first) / max(now - self._started, 1e-9)
        note = f"{quantity(rate)} {self._unit}/s  {note}"
        if self._bar is not None and self._task is not None:
            self._bar.update(self._task, completed=self._done, note=escape(shown(note)))
        elif now - self._shown > PLAIN_EVERY and self._done < self._total:
            left = (self._total - self._done) / rate if rate else 0.0
            say(f"{self._title}: {self._done}/{self._total}  {note}  {left:.0f} s left")
            self._shown = now

    def remove(self) -> None:
        """Remove the progress bar."""
        if self._bar is not None and self._task is not None:
            self._bar.remove_task(self._task)


class _Note(TextColumn):
    """Gives way to the other columns in a narrow terminal, where it ends in an ellipsis."""

    def render(self, task: Task) -> Text:
        note = super().render(task)
        note.no_wrap, note.overflow = True, "ellipsis"
        return note


class Display:
    """Prints lines and progress to standard output."""

    def __init__(self) -> None:
        self._console = Console(highlight=False, soft_wrap=True)
        self._bar: Progress | None = None

    def say(self, line: str) -> None:
        """Print one line."""
        if self._console.is_terminal:
            self._console.print(line, markup=False)
        else:
            say(line)

    @contextmanager
    def track(self, title: str, total: int, unit: str, done: int = 0) -> Iterator[Tracker]:
        """Show the progress of `total` units of work, of which `done` are done.

        If nested, it is shown on a line below the outer one until it ends.
        """
        if not sys.stdout.isatty():
            yield Tracker(title, total, unit, done, None)
            return
        if self._bar is not None:
            inner = Tracker(title, total, unit, done, self._bar)
            try:
                yield inner
            finally:
                inner.remove()
            return
        columns = (
            TextColumn("{task.description}"),
            BarColumn(bar_width=20),
            TextColumn("{task.completed}/{task.total}"),
            TimeRemainingColumn(table_column=Column(no_wrap=True)),
            TextColumn("left"),
            _Note("{task.fields[note]}", style="dim", table_column=Column()),
        )
        with Progress(*columns, console=self._console, transient=True) as self._bar:
            try:
                yield Tracker(title, total, unit, done, self._bar)
            finally:
                self._bar = None
