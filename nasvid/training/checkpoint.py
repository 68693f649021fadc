"""Checkpoints: safetensors and JSON in one folder, whole or absent, verified when read.

`weights.safetensors` is the whole net. The EMA weights and the optimizer's state are in one file
per rank that holds a part of them, in a format that any engine on any number of ranks can read.
"""

from __future__ import annotations

import re
import shutil
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, TypeVar

import torch
from torch import nn

from nasvid.distributed.ranks import ALONE, Ranks
from nasvid.errors import Damaged
from nasvid.host.aligned import read_tensors, size_of, write_aligned
from nasvid.host.files import NotWritten, make_folder, remove, replace_folder, write_json, writing
from nasvid.host.reading import as_object, check_files, found_in, read_json, sha256
from nasvid.host.terminal import one_line
from nasvid.recipe.sections import TrainingSection
from nasvid.training.ema import Ema
from nasvid.training.engine import Updater, engine_of
from nasvid.training.portable import SavedState, state_of
from nasvid.training.progress import Progress

T = TypeVar("T")
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


def save(folder: Path, trained: Trained, progress: Progress, ranks: Ranks, *, keep: int) -> Path:
    """Write a checkpoint `step-XXXXXXXX` into `folder` and remove all but the last `keep`.

    All ranks call it, and each writes what only it holds. Later checkpoints are removed too: they
    must be damaged, or training would have resumed from them. Random state is not saved: it is a
    function of (seed, step).

    Raises:
        NotWritten: the disk is full, on any rank; what was there is intact.
        RankLost: another rank has ended.
    """
    target = folder / f"step-{progress.step:08d}"
    if ranks.agree(ranks.is_rank0 and _damage(target) is None):
        _remove_others(folder, target, keep, ranks)
        return target
    temporary = folder / f".{target.name}"
    state: dict[str, Any] = {"progress": asdict(progress), "sha256": {}}
    try:
        _together(ranks, lambda: ranks.is_rank0 and _begin(temporary))
        for sums in _together(ranks, lambda: _write_part(temporary, target, trained, ranks)):
            state["sha256"] |= sums
        _together(ranks, lambda: ranks.is_rank0 and _end(temporary, target, state))
    except NotWritten:  # on all ranks, none of which writes any more
        if ranks.is_rank0:
            shutil.rmtree(temporary, ignore_errors=True)
        raise
    _remove_others(folder, target, keep, ranks)
    ranks.agree(None)  # all files are written
    return target


def _together(ranks: Ranks, do: Callable[[], T]) -> list[T]:
    """Return what each rank has done; if one could not write, all of them raise its error."""
    try:
        done: T | NotWritten = do()
    except NotWritten as error:
        done = error
    everyone = ranks.gather(done)
    for each in everyone:
        if isinstance(each, NotWritten):
            raise each
    return [each for each in everyone if not isinstance(each, NotWritten)]


def _begin(temporary: Path) -> None:
    with writing(temporary):
        shutil.rmtree(temporary, ignore_errors=True)
        make_folder(temporary)


def _end(temporary: Path, target: Path, state: Mapping[str, Any]) -> None:
    with writing(target):
        write_json(temporary / "state.json", state)
        replace_folder(temporary, target)


def _write_part(folder: Path, target: Path, trained: Trained, ranks: Ranks) -> dict[str, str]:
    """Write a rank's files and return the checksum of each by name."""
    files: dict[str, dict[str, torch.Tensor]] = {}
    if ranks.is_rank0:
        weights = trained.net.state_dict()
        files[WEIGHTS] = {name: tensor.detach().contiguous() for name, tensor in weights.items()}
    if ranks.is_rank0 or trained.engine.divided:
        size = ranks.size if trained.engine.divided else 1
        name = STATES.replace("*", f"{ranks.rank:05d}-of-{size:05d}")
        files[name] = state_of(trained.engine, trained.ema)
    with writing(target, sum(map(size_of, files.values()))):
        for name, tensors in files.items():
            write_aligned(tensors, folder / name)
    return {name: sha256(folder / name) for name in files}


def _remove_others(folder: Path, target: Path, keep: int, ranks: Ranks) -> None:
    if not ranks.is_rank0:
        return
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
    _remove_others(folder, path, keep, ALONE)


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
        damaged = _damage(path)
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


def _damage(path: Path) -> Damaged | None:
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
