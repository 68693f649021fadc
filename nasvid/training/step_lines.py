"""A training's steps as lines of the event log: few, however long the training.

The first steps have a line each. Later ones share lines, ever more steps each: the number of lines
grows with the logarithm of the number of steps.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from statistics import fmean
from typing import Any

from nasvid.shapes import Resolution
from nasvid.training.events import GroupLosses, StepEvent

SINGLE = 2048
"""Steps, from the first on, that have a line each; later, twice as many steps share half of it."""


def sharing(step: int) -> int:
    """Return how many steps share a line where `step` is: 1, 2, 4 and so on."""
    return 1 << (step // SINGLE).bit_length()


class StepLines:
    """The lines of a training's steps, which are given to it in their order.

    A line ends before each checkpoint, so that a resumed training repeats whole lines.
    """

    def __init__(self, name: str, checkpoint_every: int) -> None:
        """Begin the log of a training whose events are called `name`."""
        self._name = name
        self._every = checkpoint_every
        self._held: list[StepEvent] = []

    def add(self, event: StepEvent) -> list[dict[str, Any]]:
        """Return the line that ends with this step, if one does."""
        self._held.append(event)
        done = event.step + 1
        ends = done % sharing(event.step) == 0 or done % self._every == 0
        return self.rest() if ends else []

    def rest(self) -> list[dict[str, Any]]:
        """Return the line of the steps that have none yet, if there are any."""
        held, self._held = self._held, []
        if len(held) > 1:
            return [summary(held, self._name)]
        return [event.to_json(self._name) for event in held]


def summary(events: Sequence[StepEvent], name: str) -> dict[str, Any]:
    """Return one line for several steps in a row: `steps` of them, the last one `step`.

    Losses and norms are means over those that are finite, by resolution in `groups`; clips,
    seconds and FLOPs are sums, `skipped` is a number of steps, memory the most.
    """
    last, speeds = events[-1], [event.speed for event in events]
    finite = [event for event in events if event.loss is not None]
    resolutions = sorted({each for event in events for each in event.resolutions})
    flops = [speed.flops for speed in speeds if speed.flops is not None]
    line = {
        "event": name,
        "step": last.step,
        "steps": len(events),
        "groups": [_at(resolution, events) for resolution in resolutions],
        "resolution": resolutions[0].to_json(),
        "loss": _mean(event.loss for event in finite),
        "losses": _by_role(finite),
        "grad_norm": _mean(event.grad_norm for event in events),
        "learning_rate": last.learning_rate,
        "clips": sum(event.clips for event in events),
        "skipped": sum(event.skipped for event in events),
        "seconds": sum(speed.seconds for speed in speeds),
        "waited": sum(speed.waited for speed in speeds),
        "ranks": last.speed.ranks,
        "flops": sum(flops) if flops else None,
        "utilization": _mean(speed.utilization for speed in speeds),
        "memory": max(speed.memory for speed in speeds),
    }
    unknown = {"flops", "utilization"}
    return {key: value for key, value in line.items() if key not in unknown or value is not None}


def _at(resolution: Resolution, events: Sequence[StepEvent]) -> dict[str, Any]:
    here = [
        (event, group)
        for event in events
        for group in event.groups
        if group.resolution == resolution
    ]
    return {
        "step": events[-1].step,
        "steps": len(here),
        "resolution": resolution.to_json(),
        "clips": sum(group.clips for _, group in here),
        "losses": _by_role([group for event, group in here if event.loss is not None]),
    }


def _by_role(entries: Sequence[StepEvent | GroupLosses]) -> dict[str, float]:
    """Return the mean loss of each role, over the entries that have it."""
    roles = dict.fromkeys(role for entry in entries for role in entry.losses)
    return {
        role: fmean(entry.losses[role] for entry in entries if role in entry.losses)
        for role in roles
    }


def _mean(values: Iterable[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return fmean(known) if known else None
