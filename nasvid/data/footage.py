"""Clips cut from freely licensed footage, captioned by hand."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import yaml
from PIL import Image

from nasvid.data.errors import DataError
from nasvid.data.paths import EMBEDDED, Split
from nasvid.host.streams import stream

FRAMES, SIDE = 16, 64
"""Frames of a clip; its height and width in pixels."""
SCALED = 256
"""Pixels of a source's shorter side before it is cropped."""


@dataclass(frozen=True, slots=True)
class Scene:
    """A part of a video that shows one event; `embedded/scenes.yaml` explains the fields."""

    file: str
    source: str
    split: Split
    frames: tuple[int, int]
    step: int
    centre: tuple[float, float]
    zoom: tuple[float, float]
    clips: int
    captions: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class FootageClip:
    """A clip cut from footage: frames `t h w c` uint8, rate, caption and source."""

    frames: np.ndarray
    rate: Fraction
    caption: str
    source: str


def scenes() -> tuple[Scene, ...]:
    """Return the scenes of `embedded/scenes.yaml`."""
    entries = yaml.safe_load((EMBEDDED / "scenes.yaml").read_text())["scenes"]
    return tuple(Scene(**entry) for entry in entries)


def footage_clips(folder: Path, split: Split, seed: int = 0) -> Iterator[FootageClip]:
    """Yield the clips of a split, cut at random places of each scene.

    folder: where the packages named in SOURCES.md are unpacked.

    Raises:
        DataError: a source is missing.
    """
    for number, scene in enumerate(scenes()):
        if scene.split != split:
            continue
        pictures, rate = _read(folder, scene)
        for clip in range(scene.clips):
            rng = stream(seed, "footage", number, clip)
            first = int(rng.integers(len(pictures) - (FRAMES - 1) * scene.step))
            chosen = pictures[first :: scene.step][:FRAMES]
            box = _box(scene, chosen[0].size, rng)
            frames = [np.asarray(p.resize((SIDE, SIDE), Image.Resampling.BOX, box)) for p in chosen]
            caption = scene.captions[clip % len(scene.captions)]
            yield FootageClip(np.stack(frames), rate / scene.step, caption, scene.source)


def _read(folder: Path, scene: Scene) -> tuple[list[Image.Image], Fraction]:
    """Return the pictures of a scene, scaled, and their rate."""
    path = next(folder.rglob(scene.file), None)
    if path is None:
        raise DataError(f"{folder} has no {scene.file}; SOURCES.md names the package that has it")
    with av.open(str(path)) as container:
        stream = container.streams.video[0]
        pictures: list[Image.Image] = []
        for number, frame in enumerate(container.decode(stream)):
            if scene.frames[0] <= number < scene.frames[1]:
                scale = SCALED / min(frame.width, frame.height)
                width, height = round(frame.width * scale), round(frame.height * scale)
                pictures.append(frame.to_image(width=width, height=height, interpolation="AREA"))
        return pictures, Fraction(stream.average_rate or 25)


def _box(
    scene: Scene, size: tuple[int, int], rng: np.random.Generator
) -> tuple[float, float, float, float]:
    """Return a square near the scene's centre, inside the picture: left, top, right, bottom."""
    side = rng.uniform(*scene.zoom) * min(size)
    corner = [
        float(np.clip(at * length + rng.uniform(-0.08, 0.08) * side - side / 2, 0, length - side))
        for at, length in zip(scene.centre, size, strict=True)
    ]
    return corner[0], corner[1], corner[0] + side, corner[1] + side
