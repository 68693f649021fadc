"""A training step of a subnet of views, over the same step of the extracted, static model.

    python benchmarks/subnet_step.py

Goal: 1.05 or less at each width, the wide one at low resolution included, where weights dominate.
The static model clears its gradients in place, or drops them, so that the next ones need not be
added to anything: of a subnet they are always moved to where the supernet has them.
"""

from __future__ import annotations

import dataclasses
import time

import torch
from paired import machine, paired

from nasvid.costs import dummy_input
from nasvid.gradients import keep_gradient
from nasvid.shapes import Domain, VideoShape
from nasvid.supernet import Supernet
from nasvid_spaces.elastic_unet import ElasticUNetSpace
from nasvid_spaces.elastic_unet.config import ElasticUNetConfig

SIZES = (((32, 64), (64, 128), 32), ((64, 128), (128, 256), 16), ((128, 256), (256, 512), 8))
"""Options of the two levels' widths (half of the supernet's is trained) and the resolution."""


def main() -> None:
    torch.set_num_threads(1)
    print(machine())
    for outer, inner, side in SIZES:
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
        subnet, static = supernet.subnet(arch), supernet.extract(arch)
        shape = VideoShape.square(side, frames=8, context_len=8)
        zeros = dummy_input(shape, space.domain, device="cpu")
        inputs = dataclasses.replace(zeros, sample=torch.randn_like(zeros.sample))

        used = {supernet.net.get_parameter(n): w for n, w in supernet.used(arch).items()}

        def clear_slices(used=used) -> None:
            for parameter, where in used.items():
                if where.covers(parameter.shape):
                    parameter.grad = None
                else:
                    keep_gradient(parameter, [where])

        def clear(static=static) -> None:
            static.zero_grad(set_to_none=False)

        def drop(static=static) -> None:
            static.zero_grad(set_to_none=True)

        def step(model, clear, space=space, inputs=inputs) -> None:
            space.denoise(model, inputs).square().mean().backward()
            clear()

        print(f"{outer[1]},{inner[1]} -> {outer[0]},{inner[0]} at {side}x{side}:")
        for what, its in (("cleared", clear), ("dropped", drop)):
            result = paired(
                lambda subnet=subnet, clear=clear_slices, step=step: step(subnet, clear),
                lambda static=static, clear=its, step=step: step(static, clear),
                rounds=30,
                clock=time.process_time,
            )
            print(f"  static gradients {what}: {result}", flush=True)


if __name__ == "__main__":
    main()
