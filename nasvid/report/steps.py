"""A training's steps as curves: from the lines of the event log, one at a time."""

from __future__ import annotations

from array import array
from bisect import bisect_left
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from nasvid.report import forms
from nasvid.shapes import Resolution


@dataclass(slots=True)
class Curve:
    """A value over the steps: `value[i]` is the mean of `count[i]` steps, the last one `step[i]`.

    Steps ascend.
    """

    step: array[int] = field(default_factory=lambda: array("q"))
    value: array[float] = field(default_factory=lambda: array("d"))
    count: array[int] = field(default_factory=lambda: array("q"))

    def __len__(self) -> int:
        """Return the number of values."""
        return len(self.step)

    def add(self, step: int, value: float, count: int) -> None:
        """Append a value."""
        self.step.append(step)
        self.value.append(value)
        self.count.append(count)

    def forget(self, first: int) -> None:
        """Remove what is known of a step and those after it."""
        keep = bisect_left(self.step, first)
        del self.step[keep:], self.value[keep:], self.count[keep:]

    def total(self) -> int:
        """Return the number of steps."""
        return sum(self.count)

    def drawn(self, points: int) -> tuple[np.ndarray, np.ndarray]:
        """Return steps and values, `(n,)` each: at most `points`, each the mean of a stretch.

        All stretches are equally many steps wide.
        """
        x, y, weight = (np.array(each) for each in (self.step, self.value, self.count))
        if len(x) <= points:
            return x, y
        place = (x - x[0]) * points // (x[-1] - x[0] + 1)
        total = np.bincount(place, weight, points)
        has = total > 0
        means = (np.bincount(place, weight * each, points)[has] / total[has] for each in (x, y))
        steps, values = means
        return steps.round().astype(np.int64), values


@dataclass(frozen=True, slots=True)
class Steps:
    """The steps of a training.

    losses: by resolution and role. at: number of steps at each resolution. skipped: number of steps
    that were. settings: `learning_rate` and `grad_norm`.
    """

    made: Curve = field(default_factory=Curve)
    skipped: Curve = field(default_factory=Curve)
    at: dict[Resolution, Curve] = field(default_factory=dict)
    losses: dict[tuple[Resolution, str], Curve] = field(default_factory=dict)
    settings: dict[str, Curve] = field(default_factory=dict)

    def __len__(self) -> int:
        """Return the number of steps, each counted once."""
        return self.made.total()

    def add(self, event: Mapping[str, Any]) -> None:
        """Add a line of the log; it replaces what earlier ones said of its steps."""
        step, count = event["step"], event.get("steps", 1)
        first = step - count + 1
        if self.made.step and self.made.step[-1] >= first:
            for curve in self._curves():
                curve.forget(first)
        self.made.add(step, 0.0, count)
        if event.get("skipped"):
            self.skipped.add(step, 0.0, int(event["skipped"]))
        for key in ("learning_rate", "grad_norm"):
            if event.get(key) is not None:
                self.settings.setdefault(key, Curve()).add(step, event[key], count)
        for group in event.get("groups", [event]):
            self._add_losses(group, step, group.get("steps", 1))

    def _add_losses(self, group: Mapping[str, Any], step: int, count: int) -> None:
        resolution = forms.resolution(group["resolution"])
        self.at.setdefault(resolution, Curve()).add(step, 0.0, count)
        for role, loss in group.get("losses", {}).items():
            if loss is not None:
                self.losses.setdefault((resolution, role), Curve()).add(step, loss, count)

    def _curves(self) -> Iterator[Curve]:
        yield from (self.made, self.skipped)
        for curves in (self.at, self.losses, self.settings):
            yield from curves.values()
