"""Builds a recipe's latency table on this machine, and checks it on architectures not seen."""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from nasvid.errors import UserError
from nasvid.host.device import autocast_dtype
from nasvid.host.display import Display
from nasvid.host.files import check_file, make_folder
from nasvid.host.machine import processor
from nasvid.host.streams import stream
from nasvid.latency import build as building
from nasvid.latency import check as checking
from nasvid.latency.build import build
from nasvid.latency.check import Checked, check, unseen
from nasvid.latency.design import design
from nasvid.latency.table import Around, Lookup, Made, open_table
from nasvid.latency.timing import Bench
from nasvid.preflight import LoadedRecipe, load_recipe
from nasvid.run.components import Components
from nasvid.run.folder import RunFolder, existing, load_of_run
from nasvid.shapes import Resolution

TABLES = Path("runs/latency")
"""Where tables are written, unless said otherwise."""
DTYPES = {None: "fp32", torch.bfloat16: "bf16", torch.float16: "fp16"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Target:
    """What latency is measured of: a recipe's space, or a run's.

    folder: of the run; None for a recipe.
    """

    loaded: LoadedRecipe
    folder: RunFolder | None = None

    @classmethod
    def of(cls, path: Path, *, scale: str | None, overrides: Sequence[str], trust: bool) -> Target:
        """Load a recipe, or the recipe of the run in a folder.

        trust: run any plug-in file that a run's recipe names.

        Raises:
            UserError: it is neither, it is not valid, or a scale is given for a run.
        """
        if not path.is_dir():
            return cls(loaded=load_recipe(path, scale=scale, overrides=overrides))
        folder = existing(path)
        if scale is not None:
            raise UserError(f"{path} is a run, which has its scale; leave out --scale")
        return cls(loaded=load_of_run(folder, overrides=overrides, trust=trust), folder=folder)

    def components(self) -> Components:
        """Return the parts; a VAE that the run has trained is found."""
        if self.folder is None:
            return Components(self.loaded)
        return Components(
            self.loaded,
            prompts=self.folder.prompts,
            vae_folder=self.folder.vae,
            stores_prompts=False,
        )


def build_table(
    target: Target,
    out: Path | None,
    *,
    precision: str | None,
    batch: int,
    compiled: bool,
    rounds: int | None,
) -> Path:
    """Build a table and write it; return its path.

    out: its path; None for one that is named for the recipe and the device. precision: None for the
    recipe's. rounds: in which every network is timed; None for as many as usual.

    Raises:
        UserError: there is a folder in its place.
    """
    display, components = Display(), target.components()
    device = components.device
    autocast = autocast_dtype(precision or target.loaded.recipe.training.precision, device)
    made = Made(
        device=device_name(device),
        threads=torch.get_num_threads(),
        torch=torch.__version__,
        precision=DTYPES[autocast],
        batch=batch,
        compiled=compiled,
        memory="measured" if device.type == "cuda" else "counted",
    )
    path = out or TABLES / f"{_named(target.loaded, made)}.json"
    check_file(path)
    make_folder(path.parent)
    bench = _bench(components, made, autocast)
    display.say(f"latency: {made}")
    wanted = design(bench)
    rounds = rounds or building.ROUNDS
    work = rounds * len(wanted.genomes)
    with display.track("latency", work, "timings") as tracker:
        table = build(
            bench, wanted, made, around(components), rounds=rounds, on_visit=tracker.advance
        )
    table.write(path)
    display.say(
        f"latency: {len(table.parts)} parts with {len(table.weights) - 1} variants, "
        f"timed in {len(wanted.genomes)} networks"
    )
    return path


def _bench(components: Components, made: Made, autocast: torch.dtype | None) -> Bench:
    supernet = components.supernet()
    supernet.net.eval()
    return Bench(
        supernet, components.shapes, components.device, autocast, made.batch, made.compiled
    )


def _named(loaded: LoadedRecipe, made: Made) -> str:
    words = [loaded.recipe.name, loaded.scale or "", made.device, made.precision]
    words += [f"batch {made.batch}"] if made.batch > 1 else []
    words += ["compiled"] if made.compiled else []
    return "-".join(re.sub(r"\W+", "-", word.lower()).strip("-") for word in words if word)


def device_name(device: torch.device) -> str:
    """Return the name of a card or a processor."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    return processor()[0] or "CPU"


def around(components: Components) -> Around:
    """Time what a clip takes besides denoising; None for what is not installed or trained yet."""
    length = components.recipe.data.context_len
    encoder = components.text.encoder
    text = _seconds(lambda: encoder.encode("a caption of some words", length))
    try:
        vae = components.vae
    except UserError:
        return Around(text=text, decode=None)
    if vae is None:
        return Around(text=text, decode=dict.fromkeys(components.shapes, 0.0))
    decode = {}
    for resolution, shape in components.shapes.items():
        size = (1, components.space.domain.channels, shape.frames, shape.height, shape.width)
        latents = torch.zeros(size, device=components.device)
        decode[resolution] = _seconds(lambda latents=latents: vae.decode(latents))
    return Around(text=text, decode=None if None in decode.values() else decode)


def _seconds(work: Callable[[], object]) -> float | None:
    """Return the least of three times, after one that is not timed; None if it cannot be done."""
    times = []
    try:
        for _ in range(4):
            start = time.perf_counter()
            work()
            if torch.cuda.is_available():
                torch.cuda.synchronize()
            times.append(time.perf_counter() - start)
    except UserError:
        return None
    return min(times[1:])


@dataclass(frozen=True, slots=True, kw_only=True)
class Report:
    """A table's error: what it was built with, and what was measured at each resolution.

    clips: resolution -> architecture, `smallest` or `largest`, -> seconds of one sampled clip.
    missing: what these seconds leave out, because it could not be timed.
    """

    made: Made
    checked: Mapping[Resolution, Checked]
    clips: Mapping[Resolution, Mapping[str, float]]
    steps: int
    missing: tuple[str, ...]

    def to_json(self) -> dict[str, Any]:
        """Return plain values."""
        return {
            "made": self.made.model_dump(mode="json"),
            "resolutions": {
                str(resolution): each.to_json() for resolution, each in self.checked.items()
            },
            "clips": {str(resolution): dict(each) for resolution, each in self.clips.items()},
            "sampling_steps": self.steps,
            "missing": list(self.missing),
        }


def check_table(path: Path, target: Target, n: int, rounds: int | None, seed: int) -> Report:
    """Time n random architectures that a table was not built from.

    Raises:
        UserError: the table is of another device, space or shapes; the message says what differs.
    """
    display, components = Display(), target.components()
    lookup = open_table(path, components.space, components.shapes)
    made, device = lookup.table.made, components.device
    _check_here(path, made, device)
    autocast = {name: dtype for dtype, name in DTYPES.items()}[made.precision]
    bench = _bench(components, made, autocast)
    genomes = unseen(bench, lookup, n, stream(seed, "proposals"))
    rounds = rounds or checking.ROUNDS
    with display.track("latency", rounds * n, "timings") as tracker:
        checked = check(bench, lookup, genomes, rounds=rounds, on_visit=tracker.advance)
    steps = target.loaded.recipe.front.sampling_steps
    seconds, missing = clip_seconds(lookup, steps)
    return Report(made=made, checked=checked, clips=seconds, steps=steps, missing=missing)


def _check_here(path: Path, made: Made, device: torch.device) -> None:
    here = {
        "device": device_name(device),
        "threads": torch.get_num_threads() if device.type == "cpu" else made.threads,
        "torch": torch.__version__,
    }
    for key, value in here.items():
        if (theirs := getattr(made, key)) != value:
            raise UserError(
                f"{path} was built with {key} = {theirs}, but here it is {value}; build one here "
                "with nasvid latency build"
            )


def clip_seconds(
    lookup: Lookup, steps: int
) -> tuple[dict[Resolution, dict[str, float]], tuple[str, ...]]:
    """Return the seconds of a sampled clip for both ends of a space, and what they leave out.

    Each denoising step runs the model twice, with the prompt and without (guidance); the prompt is
    encoded and the latents are decoded once.
    """
    table, space = lookup.table, lookup.space
    ends = np.stack([space.encode(space.smallest), space.encode(space.largest)])
    parts = {"text": table.around.text, "VAE": table.around.decode}
    found = {}
    for resolution in table.shapes:
        rest = (table.around.text or 0) + (table.around.decode or {}).get(resolution, 0)
        passes = 2 * steps / table.made.batch
        seconds = passes * lookup.milliseconds(ends, resolution) / 1e3 + rest
        found[resolution] = dict(zip(("smallest", "largest"), map(float, seconds), strict=True))
    return found, tuple(name for name, part in parts.items() if part is None)
