"""A run's folder: its layout, and whether a run can be resumed in it."""

from __future__ import annotations

import json
import os
import platform
import re
import shlex
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

from nasvid.data.clips import (
    clip_index,
    index_path,
    streamed_path,
    streamed_shards,
    streams,
)
from nasvid.data.errors import DataError
from nasvid.data.paths import SPLITS, Split
from nasvid.errors import Damaged, UserError
from nasvid.host.display import Display
from nasvid.host.files import NotWritten, append_line, remove, write_json
from nasvid.host.reading import as_object, fingerprint, found_in, read_json
from nasvid.host.terminal import say
from nasvid.preflight import LoadedRecipe, check_whole, load_recipe, write_resolved
from nasvid.recipe.nodes import Node
from nasvid.recipe.sections import Recipe
from nasvid.run import trust as trusted

LAYOUT = 2
"""The layout of run folders that this code uses; a folder's is in its `environment.json`."""

FIXED_BY_TRAINING = (
    "seed",
    "data",
    "resolutions",
    "text",
    "vae",
    "space",
    "supernet",
    "importance",
    "sampler",
    "objective",
    "training",
)
"""Sections that define the supernet; the others may change between calls."""

FREE = re.compile(
    r"data\.(train|val|workers|max_skipped|cache|cache_limit|retries|allow_pipes)|"
    r"resolutions\.[\dx]+\.micro_batch|"
    r"training\.(device|engine\..*|checkpoint_every|keep_checkpoints|keep_best|max_bad_steps|"
    r"tensorboard)"
)
"""Keys in them that may change; of the shards only the place, not the content."""


@dataclass(frozen=True, slots=True)
class RunFolder:
    """A run's folder and the paths in it.

    Files that several stages use lie at the top: the recipe, the event log, the data's indexes.
    Each stage has its own folders, which no other stage writes to.
    """

    path: Path

    @property
    def command(self) -> str:
        """The command that makes or resumes the run."""
        return shlex.join(["nasvid", "run", str(self.recipe), "--out", str(self.path)])

    @property
    def recipe(self) -> Path:
        """The resolved recipe with all its values."""
        return self.path / "recipe.yaml"

    @property
    def environment(self) -> Path:
        """Versions, device, scale, and the layout of the folder."""
        return self.path / "environment.json"

    @property
    def events(self) -> Path:
        """The append-only log of all stages."""
        return self.path / "events.jsonl"

    @property
    def text(self) -> Path:
        """Embeddings of captions, unless latents have them or the recipe names a folder."""
        return self.path / "text"

    @property
    def prompts(self) -> Path:
        """The embeddings of the prompts, and of no caption."""
        return self.text / "prompts.safetensors"

    @property
    def vae(self) -> Path:
        """The autoencoder that the run has trained, and the quality of the one that it uses."""
        return self.path / "vae"

    @property
    def latents(self) -> Path:
        """Encoded clips, unless the recipe names another folder for them."""
        return self.path / "latents"

    @property
    def checkpoints(self) -> Path:
        """The supernet's checkpoints."""
        return self.path / "checkpoints"

    @property
    def train(self) -> Path:
        """Other results of training: the space's choices, the losses before training."""
        return self.path / "train"

    @property
    def importance(self) -> Path:
        """What blocks and units are worth, before training and after."""
        return self.path / "importance"

    @property
    def search(self) -> Path:
        """The record of a search, its front, and a folder for the strategy."""
        return self.path / "search"

    @property
    def record(self) -> Path:
        """The append-only record of evaluated architectures."""
        return self.search / "record.jsonl"

    @property
    def unrecorded(self) -> Path:
        """Evaluations of ranks that are not in the record yet."""
        return self.search / "unrecorded"

    @property
    def front(self) -> Path:
        """The front and its chosen members."""
        return self.search / "front.json"

    @property
    def recover(self) -> Path:
        """Candidates that were trained further, and the final front that was chosen from them."""
        return self.path / "recover"

    @property
    def recovered_front(self) -> Path:
        """The final front, if candidates were recovered before the choice."""
        return self.recover / "front.json"

    @property
    def final_front(self) -> Path:
        """The front whose members are extracted."""
        return self.recovered_front if self.recovered_front.exists() else self.front

    @property
    def evaluate(self) -> Path:
        """Metrics of the front's members from after the search."""
        return self.path / "evaluate"

    @property
    def subnets(self) -> Path:
        """The exported members of the front, each under its id."""
        return self.path / "subnets"

    @property
    def finetune(self) -> Path:
        """The fine-tuned models, their checkpoints, and their losses."""
        return self.path / "finetune"

    @property
    def rank(self) -> Path:
        """Architectures trained alone, and how well the supernet ranks them."""
        return self.path / "rank"

    @property
    def samples(self) -> Path:
        """Sample videos of each member of the front, under its id, and real clips."""
        return self.path / "samples"

    def log(self, event: dict[str, Any]) -> None:
        """Append an event, with the time, to the event log; a full disk loses it and nothing else.

        Raises:
            UserError: the folder was deleted or moved while the run is in it.
        """
        with suppress(NotWritten):
            append_line(self.events, event | {"time": round(time.time(), 3)})

    @contextmanager
    def logged(self, stage: str) -> Iterator[None]:
        """Log a stage's start and, when it succeeds, its end and duration."""
        self.log({"event": "stage", "stage": stage, "status": "started"})
        started = time.perf_counter()
        yield
        seconds = round(time.perf_counter() - started, 3)
        self.log({"event": "stage", "stage": stage, "status": "done", "seconds": seconds})


def begin(path: Path, loaded: LoadedRecipe) -> RunFolder:
    """Create the folder for a recipe, or resume in it.

    Raises:
        UserError: the folder holds something else, or a supernet with different settings.
    """
    check_free(path)
    folder = RunFolder(path)
    if folder.recipe.exists():
        fix = "choose another folder with --out"
        if is_trained(existing(path)):
            check_same_supernet(folder, loaded.recipe, fix=fix)
        else:  # its shards may have changed too
            remove(path / "data")
            _forget(folder, *_both(folder, loaded.recipe))
    write_recipe(folder, loaded)
    return folder


def check_free(path: Path) -> None:
    """Check that a path is a run's folder, empty, or not there.

    Raises:
        UserError: it holds something else.
    """
    if RunFolder(path).recipe.exists() or not path.exists():
        return
    if not path.is_dir() or any(not each.name.startswith(".") for each in path.iterdir()):
        raise UserError(
            f"{path} exists and is not a run folder; choose another with --out, or empty it"
        )


def existing(path: Path) -> RunFolder:
    """Return the folder of an earlier run.

    Raises:
        UserError: it is not one, is one of another layout, or holds a link out of it, a pipe or a
            device.
    """
    folder = RunFolder(path)
    if not folder.recipe.exists():
        raise UserError(f"{path} is not a run folder; it has no recipe.yaml")
    trusted.check_contents(path)
    layout = _environment(folder).get("layout", 1)
    if layout != LAYOUT:
        raise UserError(
            f"{path} was made by {'an earlier' if layout < LAYOUT else 'a later'} version of "
            f"nasvid (its layout is {layout}, this version's is {LAYOUT}); start a new run in "
            "another folder, or use the version that made it"
        )
    check_whole(folder.recipe)
    return folder


def write_recipe(folder: RunFolder, loaded: LoadedRecipe) -> None:
    """Write what a run is made with: the resolved recipe and the environment."""
    folder.path.mkdir(parents=True, exist_ok=True)
    try:
        read_json(folder.environment, _about)
    except Damaged as damaged:
        say(f"{damaged.path} is damaged ({damaged.reason}) and made again")
    scale = loaded.scale or _environment(folder).get("scale")
    write_resolved(loaded.recipe, folder.recipe)
    plugins = trusted.checksums(loaded.recipe.plugins)
    made = {"folder": str(folder.path.resolve()), "plugins": plugins}
    write_json(folder.environment, environment(scale, loaded.recipe) | made)


def environment(scale: str | None, recipe: Recipe) -> dict[str, Any]:
    """Return the environment that results may depend on: versions, device, scale."""
    import torch

    from nasvid.host.device import autocast_dtype, pick_device

    device = pick_device(recipe.training.device)
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else platform.processor()
    packages = ("nasvid", "torch", "diffusers", "numpy", "av", "pymoo", "webdataset")
    return {
        "layout": LAYOUT,
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


def _environment(folder: RunFolder) -> dict[str, Any]:
    """Return the content of `environment.json`; only the layout if it is damaged or not written.

    Nothing is made with it, and each run and search writes it again.
    """
    with suppress(Damaged):
        return read_json(folder.environment, _about) or {"layout": LAYOUT}
    return {"layout": LAYOUT}


def _about(value: Any) -> dict[str, Any]:
    about = as_object(value)
    as_object(about.get("plugins", {}))
    if not isinstance(about.get("folder", ""), str) or not isinstance(about.get("layout", 1), int):
        raise TypeError("its folder is no text, or its layout no number")
    return about


def load_of_run(
    folder: RunFolder,
    *,
    overrides: Sequence[str] = (),
    trust: bool = False,
    known: Sequence[str] = (),
    reads_data: bool = False,
) -> LoadedRecipe:
    """Load the recipe of a run that somebody else may have made; say which plug-ins it runs.

    If the project and the run were moved together, its paths are adjusted.

    trust: whether to run plug-in files that the run was not started with, or that lie in its
    folder. known: plug-in files that the user has named, beside those. reads_data: whether what
    follows reads shards, which may be commands.

    Raises:
        UserError: it names code that must be trusted first, or is not valid.
    """
    about = _environment(folder)
    now = folder.path.resolve()

    def prepared(tree: Node) -> Node:
        tree = trusted.relocated(tree, Path(about.get("folder", now)), now)
        if reads_data and (data := tree.child("data")):
            shards = [*_texts(data.child("train")), *_texts(data.child("val"))]
            trusted.check_pipes(shards, folder.path, trust=trust)
        files = [now / file for file in _texts(tree.child("plugins"))]
        files = [file for file in files if str(file) not in known]
        trusted.check_plugins(files, folder.path, about.get("plugins", {}), trust=trust)
        return tree

    return load_recipe(folder.recipe, overrides=overrides, prepared=prepared)


def load_to_run(
    recipe: Path, out: Path | None, *, scale: str | None, overrides: Sequence[str]
) -> LoadedRecipe:
    """Load a recipe that the user wants to run, with all code that it names.

    out: the folder to run it in, if it is known. Where the recipe is that folder's own, its paths
    are those of now, as in `load_of_run`.

    Raises:
        UserError: the folder is not one that this version can resume in, or the recipe is invalid.
    """
    folder = existing(out) if out and (out / "recipe.yaml").exists() else None
    if folder is None or not recipe.exists() or not recipe.samefile(folder.recipe):
        return load_recipe(recipe, scale=scale, overrides=overrides)
    now = folder.path.resolve()
    before = Path(_environment(folder).get("folder", now))
    return load_recipe(
        recipe,
        scale=scale,
        overrides=overrides,
        prepared=lambda tree: trusted.relocated(tree, before, now),
    )


def _texts(node: Node | None) -> list[str]:
    """Return a text, or the texts of a list; nothing if the recipe has something else there."""
    nodes = node.value if node and isinstance(node.value, list) else [node] if node else []
    return [each.value for each in nodes if isinstance(each.value, str)]


def check_same_supernet(folder: RunFolder, new: Recipe, *, fix: str) -> None:
    """Check that a recipe would train the same supernet as a run's.

    fix: what to do if not, which ends the message.

    Raises:
        UserError: it would not; the message has the key and both values.
    """
    before, after = _both(folder, new)
    for key, was, is_ in _changes(before, after):
        raise UserError(
            f"{folder.path} holds a supernet trained with {key} = {was}, but the recipe has "
            f"{is_}; {fix}"
        )
    for split in SPLITS:
        known = [index_path(folder.path, split)]
        known += [streamed_path(folder.path)] if split == "train" else []
        is_known = any(path.exists() for path in known)
        if before["data"][split] != after["data"][split] and is_known:
            _check_same_clips(folder, new, split, fix)


def _check_same_clips(folder: RunFolder, new: Recipe, split: Split, fix: str) -> None:
    """Check that shards at another place are the same that a run was made from."""
    try:
        if split == "train" and streams(new, folder.path):
            streamed_shards(new, folder.path, Display())
        else:
            clip_index(new, split, folder.path, Display())
    except DataError as error:
        raise UserError(f"{folder.path} was made from other clips ({error}); {fix}") from error


def _both(folder: RunFolder, new: Recipe) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return a run's recipe and a new one as plain values."""
    old = load_of_run(folder, known=new.plugins).recipe
    plain = json.loads(old.model_dump_json()), json.loads(new.model_dump_json())
    for recipe, content in zip((old, new), plain, strict=True):
        if streams(recipe, folder.path) and recipe.data.embeddings == "run":
            content["data"]["embeddings"] = "none"  # which it means there
    return plain


def _changes(before: Mapping[str, Any], after: Mapping[str, Any]) -> Iterator[tuple[str, str, str]]:
    """Yield each changed setting that defines the supernet: key, old and new value."""
    for section in FIXED_BY_TRAINING:
        yield from _differences(before[section], after[section], section)


def _differences(a: Any, b: Any, key: str) -> Iterator[tuple[str, Any, Any]]:
    if isinstance(a, dict) and isinstance(b, dict):
        for name in sorted(set(a) | set(b)):
            yield from _differences(a.get(name), b.get(name), f"{key}.{name}")
    elif a != b and not (
        FREE.fullmatch(key) or _moves_a_cache(key, a, b) or _same_model(str(a), str(b))
    ):
        yield key, json.dumps(a), json.dumps(b)


def _same_model(a: str, b: str) -> bool:
    """Whether two settings name folders of the same content: a model at another place."""
    return os.path.isdir(a) and os.path.isdir(b) and _content(Path(a)) == _content(Path(b))


def _content(folder: Path) -> dict[str, str]:
    folders = [folder, *(path for path in folder.rglob("*") if path.is_dir())]
    return {str(path.relative_to(folder)): fingerprint(path) for path in folders}


def _moves_a_cache(key: str, a: Any, b: Any) -> bool:
    """Whether a change only says where latents or embeddings lie; with `none` they differ."""
    return key in ("vae.cache", "data.embeddings") and "none" not in (a, b)


def is_trained(folder: RunFolder) -> bool:
    """Return whether a run holds a checkpoint, or a search of one."""
    return bool(found_in(folder.checkpoints, "step-*")) or folder.search.exists()


MADE_WITH = {
    "vae": ("data", "seed", "resolutions", "vae"),
    "latents": ("data", "seed", "resolutions", "vae", "text"),
    "text": ("data", "text"),
    "train": FIXED_BY_TRAINING,
    "importance": FIXED_BY_TRAINING,
    "tensorboard": FIXED_BY_TRAINING,
    "events.jsonl": FIXED_BY_TRAINING,
}
"""Files that a run may hold before its first checkpoint -> the sections that they depend on."""


def _forget(folder: RunFolder, before: Mapping[str, Any], after: Mapping[str, Any]) -> None:
    """Remove files that a run without training has made with different settings, and say so.

    before, after: the recipes. What is shared by any settings stays: remote shards.
    """
    sections = {key.partition(".")[0] for key, _, _ in _changes(before, after)}
    if any(before["data"][split] != after["data"][split] for split in SPLITS):
        sections.add("data")
    names = [name for name, used in MADE_WITH.items() if sections.intersection(used)]
    old = [path for name in names if (path := folder.path / name).exists()]
    for path in old:
        remove(path)
    if old:
        shown = ", ".join(path.name for path in old)
        say(
            f"{folder.path} is not trained yet; removed files made with different settings: {shown}"
        )
