"""The order of streamed samples: a function of the seed, the epoch and the shards' counts.

In each epoch the shards are permuted and laid end to end, and this row is cut into streams of equal
length, whose samples take turns. A stream is read window by window: a few shards whose samples are
shuffled among themselves. Nothing depends on ranks or processes, so that all of them agree on what
sample 123,456 is, and to read on from it takes the shards of its windows and no others.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np

from nasvid.host.streams import stream

STREAMS = 8
"""Number of streams; fewer if there are fewer shards."""
REMEMBERED = 2 * STREAMS
"""Number of windows whose order is remembered: in a batch two of each stream may meet."""


@dataclass(frozen=True, slots=True)
class Window:
    """Some shards of a stream, read together.

    shards: their numbers. first, end: the samples' positions in the row of the epoch.
    """

    epoch: int
    stream: int
    number: int
    shards: tuple[int, ...]
    first: int
    end: int


@dataclass(frozen=True, slots=True)
class Place:
    """Where a sample is: the number of its shard, and its own in the shard."""

    shard: int
    number: int


@dataclass(frozen=True)
class _Epoch:
    """The row of an epoch: its shards in their order, and the position where each ends."""

    number: int
    shards: np.ndarray
    ends: np.ndarray


@dataclass(frozen=True, eq=False)
class Order:
    """The order of the samples of some shards; samples are numbered through all epochs.

    counts: samples of each shard, int64; not all 0. window: shards per window.
    """

    counts: np.ndarray
    seed: int
    window: int
    _epochs: dict[int, _Epoch] = field(default_factory=dict)
    _permutations: dict[tuple[int, int], np.ndarray] = field(default_factory=dict)

    @cached_property
    def samples(self) -> int:
        """Number of samples of an epoch."""
        return int(self.counts.sum())

    @cached_property
    def streams(self) -> int:
        """Number of streams."""
        return min(STREAMS, int(np.count_nonzero(self.counts)))

    def stream_of(self, sample: int) -> int:
        """Return the number of the stream that a sample is in."""
        return sample % self.samples % self.streams

    def by_stream(self, first: int, size: int) -> Sequence[int]:
        """Return the samples `first` to `first + size - 1`, stream by stream.

        Equal parts of a batch then have different streams, and machines different shards.
        """
        return sorted(range(first, first + size), key=self.stream_of)

    def window_of(self, sample: int) -> Window:
        """Return the window that a sample is in."""
        epoch, position = self._position(sample)
        return self._window(epoch, self.stream_of(sample), position)

    def left(self, sample: int) -> int:
        """Return how many samples of its window are read after a sample."""
        epoch, position = self._position(sample)
        return self._window(epoch, self.stream_of(sample), position).end - position - 1

    def place(self, sample: int) -> Place:
        """Return where a sample is."""
        epoch, position = self._position(sample)
        window = self._window(epoch, self.stream_of(sample), position)
        chosen = window.first + int(self._shuffled(window)[position - window.first])
        return self._place(window, chosen)

    def another(self, window: Window, rng: np.random.Generator) -> Place:
        """Return where a random sample of a window is."""
        return self._place(window, int(rng.integers(window.first, window.end)))

    def after(self, window: Window) -> Window:
        """Return the next window of the same stream, perhaps of the next epoch."""
        _, end = self._span(window.stream)
        if window.end < end:
            return self._window(self._epoch(window.epoch), window.stream, window.end)
        first, _ = self._span(window.stream)
        return self._window(self._epoch(window.epoch + 1), window.stream, first)

    def beside(self, sample: int) -> list[Window]:
        """Return the windows that all streams read when a sample is read."""
        turn = sample - self.stream_of(sample)
        last = sample - sample % self.samples + self.samples - 1
        return [self.window_of(min(turn + each, last)) for each in range(self.streams)]

    def _position(self, sample: int) -> tuple[_Epoch, int]:
        """Return a sample's epoch and its position in the row, if windows were not shuffled."""
        number, place = divmod(sample, self.samples)
        turn, stream_ = divmod(place, self.streams)
        return self._epoch(number), self._span(stream_)[0] + turn

    def _span(self, stream_: int) -> tuple[int, int]:
        """Return where a stream begins and ends in the row; the first ones may be longer by 1."""
        length, rest = divmod(self.samples, self.streams)
        first, after = (each * length + min(each, rest) for each in (stream_, stream_ + 1))
        return first, after

    def _epoch(self, number: int) -> _Epoch:
        if number not in self._epochs:
            shards = stream(self.seed, "shards", number).permutation(len(self.counts))
            shards = shards[self.counts[shards] > 0]
            self._epochs[number] = _Epoch(number, shards, np.cumsum(self.counts[shards]))
            _forget(self._epochs, 2)
        return self._epochs[number]

    def _window(self, epoch: _Epoch, stream_: int, position: int) -> Window:
        first, end = self._span(stream_)
        begun, here, last = np.searchsorted(epoch.ends, (first, position, end - 1), side="right")
        number = int(here - begun) // self.window
        low = int(begun) + number * self.window
        high = min(low + self.window, int(last) + 1)
        return Window(
            epoch=epoch.number,
            stream=stream_,
            number=number,
            shards=tuple(epoch.shards[low:high].tolist()),
            first=max(first, int(epoch.ends[low - 1]) if low else 0),
            end=min(end, int(epoch.ends[high - 1])),
        )

    def _shuffled(self, window: Window) -> np.ndarray:
        """Return a window's samples, numbered from 0, in the order in which they are read."""
        key = window.epoch, window.first
        if key not in self._permutations:
            size = window.end - window.first
            order = stream(self.seed, "window", *key).permutation(size)
            self._permutations[key] = order.astype(np.int32)
            _forget(self._permutations, REMEMBERED)
        return self._permutations[key]

    def _place(self, window: Window, position: int) -> Place:
        epoch = self._epoch(window.epoch)
        which = int(np.searchsorted(epoch.ends, position, side="right"))
        shard = int(epoch.shards[which])
        return Place(shard, int(position - epoch.ends[which] + self.counts[shard]))


def _forget(remembered: dict[Any, Any], most: int) -> None:
    """Drop the oldest entries."""
    while len(remembered) > most:
        del remembered[next(iter(remembered))]
