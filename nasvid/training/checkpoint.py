"""Checkpoints: safetensors and JSON in one folder, whole or absent, verified when read.

`weights.safetensors` is the whole net. The EMA weights and the optimizer's state are in one file
per rank that holds a part of them, in a format that any engine on any number of ranks can read.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from dataclasses import asdict, dataclass
from pathlib import Path

from safetensors.torch import load_file, save_file
from torch import nn

from nasvid.distributed.ranks import ALONE, Ranks
from nasvid.host.files import write_json
from nasvid.recipe.sections import TrainingSection
from nasvid.training.ema import Ema
from nasvid.training.engine import Updater, engine_of
from nasvid.training.portable import SavedState, state_of
from nasvid.training.progress import Progress

WEIGHTS = "weights.safetensors"
STATES = "state-*.safetensors"
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
        RankLost: another rank has ended.
    """
    target = folder / f"step-{progress.step:08d}"
    if ranks.agree(target.exists() and _damage(target) is None):
        _remove_others(folder, target, keep, ranks)
        return target
    temporary = folder / f".{target.name}"
    if ranks.is_rank0:
        shutil.rmtree(temporary, ignore_errors=True)
        temporary.mkdir(parents=True)
    ranks.agree(None)  # the folder exists
    sums = {}
    for part in ranks.gather(_write_part(temporary, trained, ranks)):
        sums |= part
    if ranks.is_rank0:
        state = {"progress": asdict(progress), "sha256": sums}
        (temporary / "state.json").write_text(json.dumps(state, indent=1))
        shutil.rmtree(target, ignore_errors=True)
        os.replace(temporary, target)
    _remove_others(folder, target, keep, ranks)
    ranks.agree(None)  # all files are written
    return target


def _write_part(folder: Path, trained: Trained, ranks: Ranks) -> dict[str, str]:
    """Write a rank's files and return the checksum of each by name."""
    files = {}
    if ranks.is_rank0:
        weights = trained.net.state_dict()
        files[WEIGHTS] = {name: tensor.detach().contiguous() for name, tensor in weights.items()}
    if ranks.is_rank0 or trained.engine.divided:
        size = ranks.size if trained.engine.divided else 1
        name = STATES.replace("*", f"{ranks.rank:05d}-of-{size:05d}")
        files[name] = state_of(trained.engine, trained.ema)
    for name, tensors in files.items():
        save_file(tensors, folder / name)
    return {name: _sha256(folder / name) for name in files}


def _remove_others(folder: Path, target: Path, keep: int, ranks: Ranks) -> None:
    if not ranks.is_rank0:
        return
    found = sorted(folder.glob("step-*"))
    end = found.index(target) + 1
    best = best_of(folder)
    old = [path for path in found[: max(end - keep, 0)] if path != best]
    for other in (*old, *found[end:], *folder.glob(".step-*")):
        shutil.rmtree(other)


def keep_if_best(path: Path, loss: float, *, keep: int) -> None:
    """Record the loss of a checkpoint just saved; the best one is kept in addition to the last."""
    folder = path.parent
    known = folder / BEST
    if best_of(folder) is None or loss < json.loads(known.read_text())["loss"]:
        write_json(known, {"checkpoint": path.name, "loss": loss})
    _remove_others(folder, path, keep, ALONE)


def best_of(folder: Path) -> Path | None:
    """Return the best evaluated checkpoint; None if there is none."""
    known = folder / BEST
    path = folder / json.loads(known.read_text())["checkpoint"] if known.exists() else None
    return path if path and path.exists() else None


def latest(folder: Path) -> tuple[Path | None, list[str]]:
    """Return the newest intact checkpoint, or None, and a warning for each damaged one."""
    complaints = []
    for path in sorted(folder.glob("step-*"), reverse=True):
        damage = _damage(path)
        if damage is None:
            return path, complaints
        complaints.append(f"Checkpoint {path} is damaged ({damage}); using the previous one")
    return None, complaints


def read_progress(path: Path) -> Progress:
    """Return the progress of training at a checkpoint."""
    return Progress(**json.loads((path / "state.json").read_text())["progress"])


def load(path: Path, trained: Trained) -> Progress:
    """Load a checkpoint into existing objects; return the progress of training."""
    load_weights(path, trained.net)
    trained.engine.take_weights(trained.net)
    with SavedState.opened(sorted(path.glob(STATES))) as saved:
        saved.into(trained.engine, trained.ema)
    return read_progress(path)


def load_weights(path: Path, net: nn.Module) -> None:
    """Load a checkpoint's training weights into `net`."""
    net.load_state_dict(load_file(path / WEIGHTS))


def load_ema(path: Path, net: nn.Module) -> None:
    """Load a checkpoint's EMA weights and buffers into `net`."""
    load_weights(path, net)
    with SavedState.opened(sorted(path.glob(STATES))) as saved:
        saved.averages_into(net)


def _damage(path: Path) -> str | None:
    try:
        sums = json.loads((path / "state.json").read_text())["sha256"]
        for name, sum_ in sums.items():
            if _sha256(path / name) != sum_:
                return f"{name} has changed"
    except (OSError, ValueError, KeyError) as error:
        return f"{type(error).__name__}: {error}"
    return None


def _sha256(path: Path) -> str:
    """Return the hash of a file; one that this process has already hashed is not read again.

    Files are identified by what a rename keeps and a change does not.
    """
    stat = path.stat()
    identity = (stat.st_dev, stat.st_ino, stat.st_size, stat.st_mtime_ns)
    if identity not in _hashed:
        with open(path, "rb") as file:
            _hashed[identity] = hashlib.file_digest(file, "sha256").hexdigest()
    return _hashed[identity]


_hashed: dict[tuple[int, int, int, int], str] = {}
