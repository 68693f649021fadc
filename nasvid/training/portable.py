"""The state of training by parameter: each rank writes its part, and any engine can read it.

A file holds one-dimensional tensors under `PART/NAME@START`: elements of the flattened parameter
NAME, starting at START. PART is `ema`, `exp_avg`, `exp_avg_sq` or `age`; an age that all elements
share is a single number.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from nasvid.host.aligned import opened_tensors
from nasvid.training.ema import Ema
from nasvid.training.engine import Segment, Updater


def state_of(engine: Updater, ema: Ema) -> dict[str, torch.Tensor]:
    """Return this rank's part of the EMA weights and of the optimizer's state."""
    found = {}
    for shard, average in zip(engine.shards, ema.averages, strict=True):
        for part, tensor in {
            "ema": average,
            **engine.optimizer.state.get(shard.tensor, {}),
        }.items():
            is_shared = part == "age" and tensor.dim() == 0
            for segment in shard.segments:
                found[f"{part}/{segment.name}@{segment.start}"] = (
                    tensor.clone() if is_shared else _elements(tensor, segment)
                )
    return found


class SavedState:
    """The files of a state, written by any ranks and engine."""

    def __init__(self, paths: Sequence[Path], opened: ExitStack) -> None:
        self._pieces: dict[tuple[str, str], list[_Piece]] = defaultdict(list)
        for path in paths:
            file = opened.enter_context(opened_tensors(path))
            for key in file.keys():  # noqa: SIM118 (the file cannot be iterated over)
                part, _, place = key.partition("/")
                name, _, start = place.rpartition("@")
                (count,) = file.get_slice(f"ema/{place}").get_shape()
                self._pieces[part, name].append(_Piece(file, key, int(start), count))

    @classmethod
    @contextmanager
    def opened(cls, paths: Sequence[Path]) -> Iterator[SavedState]:
        """Open the files while the context lasts; only requested tensors are read."""
        with ExitStack() as files:
            yield cls(paths, files)

    def into(self, engine: Updater, ema: Ema) -> None:
        """Load this state into an engine's optimizer and the EMA weights."""
        for shard, average in zip(engine.shards, ema.averages, strict=True):
            for segment in shard.segments:
                self._read("ema", segment, average)
            state = self._optimizer_state(shard.tensor, shard.segments)
            engine.optimizer.state[shard.tensor] = state

    def averages_into(self, net: nn.Module) -> None:
        """Load the EMA weights into a net's parameters."""
        for name, parameter in net.named_parameters():
            self._read("ema", Segment(name, 0, parameter.numel(), 0), parameter.data)

    def _optimizer_state(
        self, like: torch.Tensor, segments: Sequence[Segment]
    ) -> dict[str, torch.Tensor]:
        if not any(("exp_avg", segment.name) in self._pieces for segment in segments):
            return {}  # no step has used any of it
        age = torch.zeros_like(like, dtype=torch.int32)
        state = {"exp_avg": torch.zeros_like(like), "exp_avg_sq": torch.zeros_like(like)}
        for part, tensor in {**state, "age": age}.items():
            for segment in segments:
                self._read(part, segment, tensor)
        oldest, youngest = age.max(), age.min()
        even = oldest == youngest
        return {**state, "age": oldest.float().cpu() if even else age}

    def _read(self, part: str, segment: Segment, tensor: torch.Tensor) -> None:
        """Copy the elements of a segment into `tensor`, from all files that have some of them."""
        target = _elements(tensor, segment)
        stop = segment.start + segment.count
        for piece in self._pieces.get((part, segment.name), ()):
            low, high = max(segment.start, piece.start), min(stop, piece.start + piece.count)
            if low < high:
                target[low - segment.start : high - segment.start] = piece.read(low, high)


@dataclass(frozen=True, slots=True)
class _Piece:
    """A tensor in a file with `count` elements of a parameter, starting at `start`."""

    file: Any
    key: str
    start: int
    count: int

    def read(self, low: int, high: int) -> torch.Tensor:
        """Return the elements from `low` to `high`, or the single number that all share."""
        where = self.file.get_slice(self.key)
        if not where.get_shape():
            return self.file.get_tensor(self.key)
        return where[low - self.start : high - self.start]


def _elements(tensor: torch.Tensor, segment: Segment) -> torch.Tensor:
    """Return a segment of a shard's tensor as a one-dimensional view."""
    return tensor.detach().view(-1)[segment.offset : segment.offset + segment.count]
