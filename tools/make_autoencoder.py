"""Train the autoencoder that ships with nasvid: `python tools/make_autoencoder.py OUT`.

On one CPU core 4,000 steps take about half an hour.
"""

from __future__ import annotations

import argparse
from dataclasses import replace
from pathlib import Path

import torch

from nasvid.data.loader import BatchRequest, Cutting, load_batches
from nasvid.data.shards import ShardIndex, index_shards
from nasvid.latents.frame_wise import FrameWise
from nasvid.latents.train import Frames, train_vae
from nasvid.recipe.sections import VaeTrainSection
from nasvid.shapes import Resolution
from nasvid.vae import Vae

WIDTHS = (16, 32, 64)
SIDES = (32, 48, 64)
FOOTAGE = 12
"""Times that each clip of footage counts: real pictures are what is hard."""


def main() -> None:
    """Train, write, and print how well unseen videos come back."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("out", type=Path, help="folder for config.json and the weights")
    parser.add_argument("--steps", type=int, default=4000)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    section = VaeTrainSection(steps=arguments.steps, widths=WIDTHS)

    def progress(step: int, loss: float) -> None:
        if step % 100 == 0:
            print(f"step {step}: loss {loss:.4f}", flush=True)

    model = train_vae(
        section,
        Frames(index=_clips(), resolutions=tuple(map(Resolution.square, SIDES)), seed=0, workers=1),
        arguments.out,
        channels=4,
        device=torch.device("cpu"),
        progress=progress,
        report=print,
        stop=lambda: None,
    )
    for kind in ("digits", "footage"):
        for side in SIDES:
            print(
                f"{kind} at {side} px: {unseen_psnr(FrameWise.of(model, 'new'), kind, side):.2f} dB"
            )


def unseen_psnr(vae: Vae, kind: str, side: int, most: int | None = None) -> float:
    """Return the mean PSNR, in dB, on frames of the embedded validation clips of a kind.

    most: clips to take; None for all.
    """
    index = index_shards(f"embedded:{kind}", Path(), "val")
    request = BatchRequest(
        number=0, resolution=Resolution.square(side), first=0, size=len(index.clips[:most])
    )
    cutting = Cutting(frames=4, fps=4.0, flip=False, train=False)
    (batch,) = load_batches(index, [request], cutting=cutting, seed=0, workers=0)
    return vae.psnr(batch.video)


def _clips() -> ShardIndex:
    digits = index_shards("embedded:digits", Path(), "train")
    footage = index_shards("embedded:footage", Path(), "train")
    return replace(digits, clips=digits.clips + footage.clips * FOOTAGE)


if __name__ == "__main__":
    main()
