"""A training step of a subnet of views, over the same step of the extracted, static model.

    python benchmarks/subnet_step.py

Goal: 1.05 or less at each width, the wide one at low resolution included, where weights dominate.
"""

from __future__ import annotations

import dataclasses

import torch
from paired import machine, paired

from nasvid.costs import dummy_input
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

        def step(model, parameters, space=space, inputs=inputs):
            space.denoise(model, inputs).square().mean().backward()
            for parameter in parameters:
                if parameter.grad is not None:
                    parameter.grad.zero_()

        shared, own = list(supernet.net.parameters()), list(static.parameters())
        result = paired(
            lambda subnet=subnet, shared=shared: step(subnet, shared),
            lambda static=static, own=own: step(static, own),
            rounds=30,
        )
        print(f"{outer[1]},{inner[1]} -> {outer[0]},{inner[0]} at {side}x{side}: {result}")


if __name__ == "__main__":
    main()
