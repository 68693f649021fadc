"""Handwritten digits that move across a black frame, captioned with how they move.

The handwriting is scikit-learn's `load_digits`: 1,797 real digits of 8x8 pixels (UCI, Optical
Recognition of Handwritten Digits, CC BY 4.0). Each motion is unambiguous, so the clips show whether
a model follows its text.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import product
from typing import Any

import numpy as np
from PIL import Image

from nasvid.host.streams import stream

DIRECTIONS = {"left": (-1, 0), "right": (1, 0), "up": (0, -1), "down": (0, 1)}
"""Direction -> unit vector (x, y)."""
SPEEDS = {"": 2.2, "slowly ": 1.1}
"""Adverb -> pixels per frame; at full speed a digit crosses from one edge to the other."""
ASIDE = 2.0
"""Largest offset from the middle, in pixels: small, so that the caption describes almost all of the
motion and a small model learns to follow it within minutes."""
BICUBIC = Image.Resampling.BICUBIC
FRAMES, SIDE, DIGIT = 16, 64, 32
"""Frames of a clip; height and width of a frame, and height of a digit, in pixels."""


@dataclass(frozen=True, slots=True, order=True)
class Motion:
    """What a caption says: a digit, and one of `DIRECTIONS` that it moves in."""

    digit: int
    direction: str


def caption_of(motion: Motion, speed: str) -> str:
    """Return the caption of a motion at one of `SPEEDS`."""
    return f"the digit {motion.digit} moves {speed}{motion.direction}"


def motion_of(caption: str) -> Motion | None:
    """Return what a caption says; None if it is not about a digit that moves."""
    found = _CAPTION.fullmatch(caption)
    return Motion(int(found[1]), found[2]) if found else None


_CAPTION = re.compile(rf"the digit (\d) moves (?:{'|'.join(SPEEDS)})({'|'.join(DIRECTIONS)})")


@dataclass(frozen=True, slots=True)
class DigitClip:
    """A digit in motion.

    frames: `t h w c`, uint8. image: the digit's number in `load_digits`.
    """

    frames: np.ndarray
    caption: str
    image: int


def digit_clips(split: str, repeats: int, seed: int = 0) -> Iterator[DigitClip]:
    """Yield `repeats` clips of each digit, direction and speed; needs scikit-learn.

    split: "train" draws from the first four fifths of each digit's images, "val" from the rest.
    """
    from sklearn.datasets import load_digits

    data: Any = load_digits()
    motions = product(range(10), DIRECTIONS, SPEEDS, range(repeats))
    for number, (digit, direction, speed, _) in enumerate(motions):
        rng = stream(seed, "digits", split == "val", number)
        mine = np.flatnonzero(data.target == digit)
        first_val = len(mine) * 4 // 5
        image = rng.choice(mine[:first_val] if split == "train" else mine[first_val:])
        frames = render(data.images[image], direction, SPEEDS[speed], rng.uniform(-ASIDE, ASIDE))
        yield DigitClip(frames, caption_of(Motion(digit, direction), speed), int(image))


def render(image: np.ndarray, direction: str, speed: float, aside: float) -> np.ndarray:
    """Return `t h w c` uint8: a digit that passes the middle halfway through the clip.

    image: `8 8`, 0 to 16. speed: pixels per frame. aside: offset across the motion, in pixels.
    """
    padded = np.pad(image, 2)
    digit = Image.fromarray((padded / 16 * 255).astype(np.uint8))
    along_x, along_y = DIRECTIONS[direction]
    scale = image.shape[0] / DIGIT
    corner = SIDE / 2 - len(padded) / scale / 2
    frames = []
    for frame in range(FRAMES):
        way = (frame - (FRAMES - 1) / 2) * speed
        left = corner + along_x * way + abs(along_y) * aside
        top = corner + along_y * way + abs(along_x) * aside
        shift = (scale, 0, -left * scale, 0, scale, -top * scale)
        placed = digit.transform((SIDE, SIDE), Image.Transform.AFFINE, shift, BICUBIC)
        frames.append(_crisp(np.asarray(placed)))
    return np.repeat(np.stack(frames)[..., None], 3, axis=-1)


def _crisp(gray: np.ndarray) -> np.ndarray:
    """Sharpen edges blurred by upscaling."""
    value = np.clip((gray / 255 - 0.25) / 0.5, 0, 1)
    return (255 * value * value * (3 - 2 * value)).astype(np.uint8)
