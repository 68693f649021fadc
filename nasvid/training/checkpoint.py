"""Checkpoints: safetensors and JSON in one folder, whole or absent, verified when read.

`weights.safetensors` is the whole net. The EMA weights and the optimizer's state are in one file
per rank that holds a part of them, in a format that any engine on any number of ranks can read.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import nn

from nasvid.distributed.ranks import Ranks
from nasvid.errors import Damaged
from nasvid.host.aligned import read_tensors
from nasvid.host.files import remove, write_json
from nasvid.host.reading import as_object, check_files, found_in, read_json
from nasvid.host.terminal import one_line
from nasvid.recipe.sections import TrainingSection
from nasvid.training.ema import Ema
from nasvid.training.engine import Updater, engine_of
from nasvid.training.portable import SavedState
from nasvid.training.progress import Progress

WEIGHTS = "weights.safetensors"
STATES = "state-*.safetensors"
NAME = re.compile(r"step-\d+", re.ASCII)
"""The names of checkpoints."""
BEST = "best.json"
"""The name and loss of the best checkpoint evaluated so far."""


@dataclass(frozen=True, slots=True)
class Trained:
    """What training changes: the net, the engine's optimizer state, the EMA weights."""

    net: nn.Module
    engine: Updater
    ema: Ema

    @classmethod
    def of(cls, net: nn.Module, settings: TrainingSection, ranks: Ranks) -> Trained:
        """Start the recipe's engine for a net, with EMA weights equal to its weights."""
        engine = engine_of(settings.engine).start(net, settings, ranks)
        return cls(net, engine, Ema([shard.tensor for shard in engine.shards], settings.ema_decay))


def remove_others(target: Path, keep: int) -> None:
    """Remove all checkpoints but the best, the one just written and the `keep` - 1 before it."""
    folder = target.parent
    found = found_in(folder, "step-*")
    end = found.index(target) + 1
    best = best_of(folder)
    old = [path for path in found[: max(end - keep, 0)] if path != best]
    for other in (*old, *found[end:], *found_in(folder, ".step-*")):
        remove(other)


def keep_if_best(path: Path, loss: float, *, keep: int) -> None:
    """Record the loss of a checkpoint just saved; the best one is kept in addition to the last."""
    folder = path.parent
    best = _best(folder)
    if best is None or loss < best[1]:
        write_json(folder / BEST, {"checkpoint": path.name, "loss": loss})
    remove_others(path, keep)


def best_of(folder: Path) -> Path | None:
    """Return the best of the checkpoints that were evaluated; None if none was or it is gone.

    Raises:
        Damaged: the note of which it is, or the checkpoint itself, is damaged.
    """
    best = _best(folder)
    return best[0] if best else None


def _best(folder: Path) -> tuple[Path, float] | None:
    try:
        best = read_json(
            folder / BEST, lambda v: (_named(folder, v["checkpoint"]), float(v["loss"]))
        )
    except Damaged as damaged:
        raise Damaged(
            damaged.path,
            damaged.reason,
            "delete it; the best checkpoint is then chosen among those that follow",
        ) from damaged
    return best if best and best[0].exists() else None


def _named(folder: Path, name: Any) -> Path:
    """Return the checkpoint of that name, which may have been written by anyone.

    Raises:
        ValueError: it is not a checkpoint's name, but could be a path to somewhere else.
    """
    if not isinstance(name, str) or not NAME.fullmatch(name):
        raise ValueError(f"'{one_line(name)}' is not a checkpoint's name")
    return folder / name


def latest(folder: Path) -> tuple[Path | None, list[str]]:
    """Return the newest intact checkpoint, or None, and a warning for each damaged one."""
    complaints = []
    for path in reversed(found_in(folder, "step-*")):
        damaged = damage(path)
        if damaged is None:
            return path, complaints
        complaints.append(
            f"Checkpoint {path.name} cannot be used: {damaged.path} is damaged ({damaged.reason})"
        )
    return None, complaints


def read_progress(path: Path) -> Progress:
    """Return the progress of training at a checkpoint."""
    return _state(path)[0]


def load(path: Path, trained: Trained) -> Progress:
    """Load a checkpoint into existing objects; return the progress of training."""
    load_weights(path, trained.net)
    trained.engine.take_weights(trained.net)
    with SavedState.opened(found_in(path, STATES)) as saved:
        saved.into(trained.engine, trained.ema)
    return read_progress(path)


def load_weights(path: Path, net: nn.Module) -> None:
    """Load a checkpoint's training weights into `net`."""
    net.load_state_dict(read_tensors(path / WEIGHTS))


def load_ema(path: Path, net: nn.Module) -> None:
    """Load a checkpoint's EMA weights and buffers into `net`."""
    load_weights(path, net)
    with SavedState.opened(found_in(path, STATES)) as saved:
        saved.averages_into(net)


def check(path: Path) -> None:
    """Check that a checkpoint is as it was written.

    Raises:
        Damaged: it is not. OSError: it cannot be read, which is no damage.
    """
    check_files(path, _state(path)[1])


def damage(path: Path) -> Damaged | None:
    """Return how a checkpoint is damaged; None if it is as it was written."""
    try:
        check(path)
    except Damaged as damaged:
        return damaged
    return None


def _state(path: Path) -> tuple[Progress, dict[str, str]]:
    state = read_json(
        path / "state.json",
        lambda value: (Progress(**as_object(value["progress"])), as_object(value["sha256"])),
    )
    if state is None:
        raise Damaged(path / "state.json", "it is missing")
    return state
