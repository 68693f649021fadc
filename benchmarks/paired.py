"""Paired timings: two pieces of work in turn, so that a machine's drift cancels in their ratio."""

from __future__ import annotations

import platform
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass

import torch


@dataclass(frozen=True, slots=True)
class Paired:
    """Seconds of both (medians) and the ratio first over second: median and quartiles."""

    first: float
    second: float
    ratio: float
    low: float
    high: float

    def __str__(self) -> str:
        times = f"{1e3 * self.first:.2f} ms over {1e3 * self.second:.2f} ms"
        return f"ratio {self.ratio:.3f} [{self.low:.3f} to {self.high:.3f}]  ({times})"


def paired(
    first: Callable[[], object],
    second: Callable[[], object],
    *,
    rounds: int,
    warm_up: int = 2,
    clock: Callable[[], float] = time.perf_counter,
) -> Paired:
    """Time both in turn, `rounds` times, the order reversed each time.

    clock: `time.process_time` for what runs on one thread, whose time others then do not add to.
    """
    times: tuple[list[float], list[float]] = ([], [])
    for number in range(warm_up + rounds):
        order = ((0, first), (1, second)) if number % 2 else ((1, second), (0, first))
        for place, work in order:
            started = clock()
            work()
            if number >= warm_up:
                times[place].append(clock() - started)
    ratios = sorted(a / b for a, b in zip(*times, strict=True))
    quarter = len(ratios) // 4
    return Paired(
        statistics.median(times[0]),
        statistics.median(times[1]),
        statistics.median(ratios),
        ratios[quarter],
        ratios[-1 - quarter],
    )


def machine() -> str:
    """Return one line about the machine: figures mean nothing without it."""
    isa = torch.backends.cpu.get_cpu_capability()
    return (
        f"{platform.machine()} {isa}, {torch.get_num_threads()} threads, torch {torch.__version__}"
    )
