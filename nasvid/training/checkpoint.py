"""Checkpoints: safetensors and JSON in one folder, whole or absent, checked when read."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from torch import nn

from nasvid.training.ema import Ema
from nasvid.training.optimizer import SparseAdamW

_FILES = ("weights", "ema", "optimizer")


@dataclass(slots=True)
class Progress:
    """Where training stands.

    step: the next step. clips: used so far. updates: optimizer steps made, skipped ones left out.
    skipped: steps left out for a loss or gradient that is not finite. bad: the last ones in a row.
    """

    step: int = 0
    clips: int = 0
    updates: int = 0
    skipped: int = 0
    bad: int = 0


def save(
    folder: Path, net: nn.Module, ema: Ema, optimizer: SparseAdamW, progress: Progress, *, keep: int
) -> Path:
    """Write a checkpoint `step-XXXXXXXX` into `folder` and remove all but the last `keep`.

    Later ones are damaged, or training would have gone on from them: they are removed too.
    Random numbers need no saving: they are functions of (seed, step).
    """
    target = folder / f"step-{progress.step:08d}"
    if target.exists() and _damage(target) is not None:
        shutil.rmtree(target)
    if not target.exists():
        temporary = folder / f".{target.name}.{os.getpid()}"
        shutil.rmtree(temporary, ignore_errors=True)
        temporary.mkdir(parents=True)
        save_file(_contiguous(net.state_dict()), temporary / "weights.safetensors")
        save_file(_contiguous(ema.weights), temporary / "ema.safetensors")
        save_file(_flat_state(net, optimizer), temporary / "optimizer.safetensors")
        sums = {name: _sha256(temporary / f"{name}.safetensors") for name in _FILES}
        state = {"progress": asdict(progress), "sha256": sums}
        (temporary / "state.json").write_text(json.dumps(state, indent=1))
        os.replace(temporary, target)
    found = sorted(folder.glob("step-*"))
    end = found.index(target) + 1
    for other in (*found[: max(end - keep, 0)], *found[end:]):
        shutil.rmtree(other)
    for torn in folder.glob(".step-*"):
        shutil.rmtree(torn)
    return target


def latest(folder: Path) -> tuple[Path | None, list[str]]:
    """Return the newest whole checkpoint, or None, and a complaint for each damaged one."""
    complaints = []
    for path in sorted(folder.glob("step-*"), reverse=True):
        damage = _damage(path)
        if damage is None:
            return path, complaints
        complaints.append(f"checkpoint {path} is damaged ({damage}): using the one before")
    return None, complaints


def read_progress(path: Path) -> Progress:
    """Return where training stood at a checkpoint."""
    return Progress(**json.loads((path / "state.json").read_text())["progress"])


def load(path: Path, net: nn.Module, ema: Ema, optimizer: SparseAdamW) -> Progress:
    """Read a checkpoint into existing objects and return where training stood."""
    net.load_state_dict(load_file(path / "weights.safetensors"))
    for name, weight in load_file(path / "ema.safetensors").items():
        ema.weights[name].copy_(weight)
    parameters = dict(net.named_parameters())
    for key, value in load_file(path / "optimizer.safetensors").items():
        name, _, part = key.rpartition("/")
        parameter = parameters[name]
        optimizer.state[parameter][part] = value.to(parameter.device)
    return read_progress(path)


def load_ema(path: Path, net: nn.Module) -> None:
    """Put a checkpoint's averaged weights, with its buffers, into `net`."""
    net.load_state_dict(load_file(path / "weights.safetensors"))
    net.load_state_dict(load_file(path / "ema.safetensors"), strict=False)


def _flat_state(net: nn.Module, optimizer: SparseAdamW) -> dict[str, torch.Tensor]:
    return {
        f"{name}/{part}": value.contiguous()
        for name, parameter in net.named_parameters()
        for part, value in optimizer.state.get(parameter, {}).items()
    }


def _contiguous(tensors: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    return {name: tensor.detach().contiguous() for name, tensor in tensors.items()}


def _damage(path: Path) -> str | None:
    try:
        sums = json.loads((path / "state.json").read_text())["sha256"]
        for name in _FILES:
            if _sha256(path / f"{name}.safetensors") != sums[name]:
                return f"{name}.safetensors has changed"
    except (OSError, ValueError, KeyError) as error:
        return f"{type(error).__name__}: {error}"
    return None


def _sha256(path: Path) -> str:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
