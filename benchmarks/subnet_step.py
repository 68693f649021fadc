"""A training step of a subnet of views, over the same step of the extracted, static model.

    python benchmarks/subnet_step.py

Goal: 1.05 or less at each width, the wide one at low resolution included, where weights dominate.
The static model clears its gradients in place, or drops them, so that the next ones need not be
added to anything: of a subnet they are always moved to where the supernet has them. The last line
of each size is of whole steps, which also clip, update the weights and the EMA weights; the norm
and the EMA weights are of the whole supernet, which has four times the weights.
"""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable, Mapping, Sequence

import torch
from paired import machine, paired
from torch import nn

from nasvid.costs import dummy_input
from nasvid.distributed.ranks import ALONE
from nasvid.gradients import keep_gradient
from nasvid.recipe.sections import TrainingSection
from nasvid.shapes import Domain, VideoShape
from nasvid.slices import TensorSlice
from nasvid.supernet import Supernet
from nasvid.training.checkpoint import Trained
from nasvid_spaces.elastic_unet import ElasticUNetSpace
from nasvid_spaces.elastic_unet.config import ElasticUNetConfig

SIZES = (((32, 64), (64, 128), 32), ((64, 128), (128, 256), 16), ((128, 256), (256, 512), 8))
"""Options of the two levels' widths (half of the supernet's is trained) and the resolution."""


def main() -> None:
    torch.set_num_threads(1)
    print(machine())
    for outer, inner, side in SIZES:
        print(f"{outer[1]},{inner[1]} -> {outer[0]},{inner[0]} at {side}x{side}:")
        compare(outer, inner, side)


def compare(outer: tuple[int, int], inner: tuple[int, int], side: int) -> None:
    config = ElasticUNetConfig(
        widths=(outer, inner),
        hidden_ratios=(1.0,),
        blocks_per_level=1,
        attention_levels=(0, 1),
        conditioning_width=128,
        head_dim=32,
    )
    space = ElasticUNetSpace(config, Domain(channels=3, context_dim=64))
    half = {choice.name: choice.options[-1] for choice in space.choices}
    half |= {"level.0.width": outer[0], "level.1.width": inner[0]}
    arch = space.architecture(half)
    supernet = Supernet(space)
    static = supernet.extract(arch)
    used = supernet.used(arch)
    slices = {supernet.net.get_parameter(name): where for name, where in used.items()}
    shape = VideoShape.square(side, frames=8, context_len=8)
    zeros = dummy_input(shape, space.domain, device="cpu")
    inputs = dataclasses.replace(zeros, sample=torch.randn_like(zeros.sample))

    def step(model: nn.Module, end: Callable[[], None]) -> Callable[[], None]:
        def run() -> None:
            space.denoise(model, inputs).square().mean().backward()
            end()

        return run

    subnet = step(supernet.subnet(arch), lambda: clear(slices))
    updated = step(supernet.subnet(arch), update(supernet.net, [used], whole=False))
    lines = {
        "static gradients cleared": (subnet, step(static, lambda: static.zero_grad(False))),
        "static gradients dropped": (subnet, step(static, static.zero_grad)),
        "with update": (updated, step(static, update(static, (), whole=True))),
    }
    for what, (ours, theirs) in lines.items():
        result = paired(ours, theirs, rounds=30, clock=time.process_time)
        print(f"  {what}: {result}", flush=True)


def clear(used: Mapping[nn.Parameter, TensorSlice]) -> None:
    """Clear the gradients of a step as engine torch does."""
    for parameter, where in used.items():
        if where.covers(parameter.shape):
            parameter.grad = None
        else:
            keep_gradient(parameter, [where])


def update(
    net: nn.Module, used: Sequence[Mapping[str, TensorSlice]], *, whole: bool
) -> Callable[[], None]:
    """Return engine torch's update, of what was used, and that of the EMA weights."""
    trained = Trained.of(net, TrainingSection(steps=1), ALONE)

    def run() -> None:
        if used:
            trained.engine.begin(used)
        trained.engine.update(rate=1e-4, whole=whole)
        trained.ema.update(100)

    return run


if __name__ == "__main__":
    main()
