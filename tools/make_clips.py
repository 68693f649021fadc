"""Make the shards that ship with nasvid: `python tools/make_clips.py OUT --footage DIR`.

Needs scikit-learn for the digits and the packages that SOURCES.md names, unpacked in DIR.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterable, Iterator
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
from webdataset.writer import TarWriter

from nasvid.data.digits import digit_clips
from nasvid.data.encode import encode
from nasvid.data.footage import footage_clips
from nasvid.data.paths import SPLITS, Split
from nasvid.host.files import atomic_path

DIGIT_FPS = Fraction(16)
"""So that a clip of 8 frames at 8 fps has the whole motion, as one of 16 has."""
CRF = 20
REPEATS: dict[Split, int] = {"train": 8, "val": 1}
"""Clips of each of the 80 captions about digits."""


def main() -> None:
    """Write the four shards."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("out", type=Path, help="folder for {train,val}/{digits,footage}-000.tar")
    parser.add_argument("--footage", type=Path, required=True, help="folder of unpacked packages")
    arguments = parser.parse_args()
    for split in SPLITS:
        _write(arguments.out / split / "digits-000.tar", _digits(split))
        _write(arguments.out / split / "footage-000.tar", _footage(split, arguments.footage))


def _digits(split: Split) -> Iterator[dict[str, Any]]:
    for number, clip in enumerate(digit_clips(split, REPEATS[split])):
        key = f"digits-{number:04d}-image-{clip.image:04d}"
        yield _sample(key, clip.frames, DIGIT_FPS, clip.caption)


def _footage(split: Split, folder: Path) -> Iterator[dict[str, Any]]:
    for number, clip in enumerate(footage_clips(folder, split)):
        sample = _sample(f"footage-{number:04d}", clip.frames, clip.rate, clip.caption)
        yield sample | {"json": json.dumps({"source": clip.source}).encode()}


def _sample(key: str, frames: np.ndarray, rate: Fraction, caption: str) -> dict[str, Any]:
    height, width = frames.shape[1:3]
    pictures = (av.VideoFrame.from_ndarray(frame, format="rgb24") for frame in frames)
    video = encode(pictures, width, height, rate, crf=CRF)
    return {"__key__": key, "mp4": video, "txt": caption}


def _write(path: Path, samples: Iterable[dict[str, Any]]) -> None:
    with atomic_path(path) as temporary, TarWriter(str(temporary), mtime=0) as shard:
        for sample in samples:
            shard.write(sample)


if __name__ == "__main__":
    main()
