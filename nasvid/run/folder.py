"""A run's folder: what is where, and whether it can be gone on with."""

from __future__ import annotations

import json
import platform
import re
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

from nasvid.errors import UserError
from nasvid.host.files import append_line, write_json
from nasvid.preflight import LoadedRecipe, load_recipe, write_resolved
from nasvid.recipe.sections import Recipe

FIXED_BY_TRAINING = (
    "seed",
    "data",
    "resolutions",
    "text",
    "vae",
    "space",
    "supernet",
    "sampler",
    "objective",
    "training",
)
"""Sections whose change makes another supernet; the others may change between calls."""

FREE = re.compile(
    r"data\.(workers|max_skipped|cache|retries|allow_pipes)|resolutions\.\d+\.micro_batch|"
    r"training\.(device|engine\..*|checkpoint_every|keep_checkpoints|keep_best|max_bad_steps|"
    r"tensorboard)"
)
"""Keys in them that do not."""


@dataclass(frozen=True, slots=True)
class Run:
    """An existing run folder and its recipe, with absolute paths."""

    folder: Path
    recipe: Recipe

    @classmethod
    def start(cls, folder: Path, loaded: LoadedRecipe) -> Run:
        """Make the folder for a recipe, or go on in it.

        Raises:
            UserError: the folder holds something else, or a supernet of other settings.
        """
        recipe, scale = loaded.recipe, loaded.scale
        if (folder / "recipe.yaml").exists():
            _check_same_supernet(folder, cls.open(folder).recipe, recipe)
            scale = scale or _known_scale(folder)
        elif folder.exists() and any(not p.name.startswith(".") for p in folder.iterdir()):
            raise UserError(
                f"{folder} exists and is not a run: choose another folder with --out, or empty it"
            )
        folder.mkdir(parents=True, exist_ok=True)
        write_resolved(recipe, folder / "recipe.yaml")
        write_json(folder / "environment.json", environment(scale, recipe))
        return cls(folder, recipe)

    @classmethod
    def open(cls, folder: Path) -> Run:
        """Open the folder of an earlier `nasvid run`.

        Raises:
            UserError: it is not one.
        """
        path = folder / "recipe.yaml"
        if not path.is_file():
            raise UserError(f"{folder} is not a run folder: it has no recipe.yaml")
        return cls(folder, load_recipe(path).recipe)

    @property
    def checkpoints(self) -> Path:
        """Where the supernet's checkpoints are."""
        return self.folder / "checkpoints"

    @property
    def latents(self) -> Path | None:
        """Where encoded clips are kept; None in pixel space, and where each step encodes."""
        vae = self.recipe.vae
        if vae is None or vae.cache == "none":
            return None
        return self.folder / "latents" if vae.cache == "run" else Path(vae.cache)

    @property
    def record(self) -> Path:
        """The append-only record of judged architectures."""
        return self.folder / "search" / "record.jsonl"

    @property
    def front(self) -> Path:
        """The front and its chosen members."""
        return self.folder / "search" / "front.json"

    def subnet(self, id_: str) -> Path:
        """Where a subnet is exported to."""
        return self.folder / "subnets" / id_

    def samples(self, id_: str) -> Path:
        """Where a subnet's sample videos are."""
        return self.folder / "samples" / id_

    def log(self, event: dict[str, Any]) -> None:
        """Append an event, with the time, to the event log."""
        append_line(self.folder / "events.jsonl", event | {"time": round(time.time(), 3)})

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        """Log a stage's start and, when it succeeds, its end and length."""
        self.log({"event": "stage", "stage": name, "status": "started"})
        started = time.perf_counter()
        yield
        seconds = round(time.perf_counter() - started, 3)
        self.log({"event": "stage", "stage": name, "status": "done", "seconds": seconds})


def environment(scale: str | None, recipe: Recipe) -> dict[str, Any]:
    """Return what results may depend on: versions, the device, the scale."""
    import torch

    from nasvid.host.device import autocast_dtype, pick_device

    device = pick_device(recipe.training.device)
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else platform.processor()
    packages = ("nasvid", "torch", "diffusers", "numpy", "av", "pymoo", "webdataset")
    return {
        "scale": scale,
        "command": sys.argv,
        "python": platform.python_version(),
        "platform": platform.platform(),
        "device": str(device),
        "device_name": name or platform.machine(),
        "threads": torch.get_num_threads(),
        "precision": str(autocast_dtype(recipe.training.precision, device) or torch.float32),
        "packages": {package: version(package) for package in packages},
    }


def _known_scale(folder: Path) -> str | None:
    path = folder / "environment.json"
    return json.loads(path.read_text())["scale"] if path.exists() else None


def _check_same_supernet(folder: Path, old: Recipe, new: Recipe) -> None:
    before, after = (json.loads(recipe.model_dump_json()) for recipe in (old, new))
    for section in FIXED_BY_TRAINING:
        for key, was, is_ in _differences(before[section], after[section], section):
            raise UserError(
                f"{folder} holds a supernet trained with {key} = {was}, and the recipe now says "
                f"{is_}: choose another folder with --out"
            )


def _differences(a: Any, b: Any, key: str) -> Iterator[tuple[str, Any, Any]]:
    if isinstance(a, dict) and isinstance(b, dict):
        for name in sorted(set(a) | set(b)):
            yield from _differences(a.get(name), b.get(name), f"{key}.{name}")
    elif a != b and not FREE.fullmatch(key):
        yield key, json.dumps(a), json.dumps(b)
