"""The cost of a training step over its analytic MACs, as resolution, frames and widths grow.

    python benchmarks/scaling.py

For each the seconds and the MACs are given over those of the first line. Where both grow alike, the
MACs are a fair forecast of time.
"""

from __future__ import annotations

import dataclasses
import statistics
import time

import numpy as np
import torch
from paired import machine

from nasvid.costs import dummy_input
from nasvid.shapes import Domain, VideoShape
from nasvid.supernet import Supernet
from nasvid_spaces.elastic_unet import ElasticUNetSpace
from nasvid_spaces.elastic_unet.config import ElasticUNetConfig

BASE = {"side": 32, "frames": 8, "width": 32}
LINES = (
    BASE,
    BASE | {"side": 48},
    BASE | {"side": 64},
    BASE | {"frames": 16},
    BASE | {"frames": 32},
    BASE | {"width": 64},
    BASE | {"width": 128},
)
ROUNDS = 7


def main() -> None:
    torch.set_num_threads(1)
    print(machine())
    steps = [step_of(**line) for line in LINES]
    times: list[list[float]] = [[] for _ in LINES]
    for _ in range(ROUNDS):
        for (run, _), taken in zip(steps, times, strict=True):
            started = time.perf_counter()
            run()
            taken.append(time.perf_counter() - started)
    seconds = [statistics.median(taken) for taken in times]
    for line, (_, macs), taken in zip(LINES, steps, seconds, strict=True):
        grown, counted = taken / seconds[0], macs / steps[0][1]
        print(
            f"{line['side']} px, {line['frames']} frames, width {line['width']}: "
            f"{1e3 * taken:.0f} ms, {grown:.2f} times; "
            f"{macs / 1e9:.2f}G MACs, {counted:.2f} times; ratio {grown / counted:.2f}"
        )


def step_of(side: int, frames: int, width: int):
    """Return a step of the largest network of a space, and the MACs of its forward pass."""
    config = ElasticUNetConfig(
        widths=((width,), (2 * width,)),
        hidden_ratios=(1.0,),
        blocks_per_level=1,
        attention_levels=(1,),
        conditioning_width=128,
        head_dim=32,
    )
    space = ElasticUNetSpace(config, Domain(channels=3, context_dim=64))
    shape = VideoShape.square(side, frames=frames, context_len=8)
    model = Supernet(space).subnet(space.largest)
    zeros = dummy_input(shape, space.domain, device="cpu")
    inputs = dataclasses.replace(zeros, sample=torch.randn_like(zeros.sample))

    def step() -> None:
        space.denoise(model, inputs).square().mean().backward()
        model.zero_grad()

    step()
    macs = space.costs(np.stack([space.encode(space.largest)]), shape).macs
    return step, int(macs[0])


if __name__ == "__main__":
    main()
