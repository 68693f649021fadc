from pathlib import Path

import numpy as np
import pytest
import torch
from diffusers.schedulers.scheduling_ddim import DDIMScheduler

from nasvid.architecture import Architecture
from nasvid.costs import dummy_input
from nasvid.export.subnet import SubnetInfo, export_subnet, load_exported
from nasvid.shapes import DenoiserInput, Domain, Resolution, VideoShape
from nasvid.supernet import Supernet
from nasvid_spaces.elastic_unet import ElasticUNetSpace

pytestmark = pytest.mark.slow

torch.set_num_threads(1)

OPTIONS = {
    "widths": ((16, 32), (32, 48)),
    "blocks_per_level": 1,
    "attention_levels": (1,),
    "conditioning_width": 32,
    "head_dim": 16,
    "group_size": 8,
}


@pytest.fixture(scope="module")
def supernet() -> Supernet:
    space = ElasticUNetSpace(ElasticUNetSpace.Config(**OPTIONS), Domain(context_dim=8))
    with torch.random.fork_rng():
        torch.manual_seed(0)
        supernet = Supernet(space)
    supernet.net.eval()
    return supernet


def noisy(supernet: Supernet) -> DenoiserInput:
    shape = VideoShape.square(8, frames=4, context_len=3)
    zeros = dummy_input(shape, supernet.space.domain, batch=2, device="cpu")
    generator = torch.Generator().manual_seed(1)
    return DenoiserInput(
        sample=torch.randn(zeros.sample.shape, generator=generator),
        timestep=torch.tensor([10, 700]),
        context=torch.randn(zeros.context.shape, generator=generator),
        context_mask=zeros.context_mask,
        fps=zeros.fps * 8,
    )


def exported(supernet: Supernet, arch: Architecture, folder: Path) -> Path:
    info = SubnetInfo(
        arch=arch,
        space={"name": "elastic_unet", **OPTIONS},
        domain=supernet.space.domain,
        text={"name": "hash"},
        frames=4,
        fps=8.0,
        resolutions=(Resolution.square(8),),
        context_len=3,
        metrics={"loss@8": 0.5},
    )
    return export_subnet(supernet.extract(arch), DDIMScheduler(), info, folder)


@pytest.mark.parametrize("which", ["smallest", "largest", "random"])
def test_an_exported_subnet_computes_what_it_did_in_the_supernet(
    supernet: Supernet, tmp_path: Path, which: str
) -> None:
    arch = (
        supernet.space.sample(np.random.default_rng(0))
        if which == "random"
        else getattr(supernet.space, which)
    )
    folder = exported(supernet, arch, tmp_path / arch.id)
    inputs = noisy(supernet)
    with torch.no_grad():
        expected = supernet.space.denoise(supernet.subnet(arch), inputs)
        assert torch.equal(supernet.space.denoise(load_exported(folder), inputs), expected)
