"""Extracted subnets of diffusers' classes are stock models: they run where nasvid is not."""

from dataclasses import fields
from pathlib import Path

import numpy as np
import pytest
import torch
from diffusers import TextToVideoSDPipeline
from safetensors.torch import load_file, save_file

from nasvid.export.subnet import subfolder
from nasvid.host.aligned import save_aligned
from nasvid.shapes import VideoShape
from nasvid.supernet import Supernet
from nasvid.testing.steps import noisy_clips
from nasvid.text_encoder import TextSection
from nasvid_spaces.diffusers_model import (
    CogVideoXSpace,
    HunyuanVideoSpace,
    LatteSpace,
    LTXSpace,
    UNet3DSpace,
    WanSpace,
)

pytestmark = pytest.mark.slow

CLASSES = (UNet3DSpace, WanSpace, LTXSpace, LatteSpace, CogVideoXSpace, HunyuanVideoSpace)
SHAPE = VideoShape.square(8, frames=4, context_len=3)
PROMPT = "a cat runs"


@pytest.fixture(scope="module")
def ran(tiny_space, stranger, tmp_path_factory) -> Path:
    """A folder of extracted subnets, run in a process that cannot import nasvid."""
    folder = tmp_path_factory.mktemp("stock")
    for cls in CLASSES:
        space = tiny_space(cls)
        supernet = Supernet(space)
        supernet.net.eval()
        arch = space.sample(np.random.default_rng(1))
        part = folder / cls.model / subfolder(supernet.net)
        save_aligned(supernet.extract(arch), part)
        inputs = noisy_clips(space, SHAPE)
        named = {field.name: getattr(inputs, field.name) for field in fields(inputs)}
        save_file(
            {name: tensor.contiguous() for name, tensor in named.items()},
            part.parent / "inputs.safetensors",
        )
        with torch.no_grad():
            expected = space.denoise(supernet.subnet(arch), inputs)
        save_file({"output": expected.contiguous()}, part.parent / "expected.safetensors")
    stranger.run(Path(__file__).with_name("stock.py").read_text(), folder, folder)
    return folder


@pytest.mark.parametrize("cls", CLASSES, ids=lambda cls: cls.model)
def test_an_extracted_subnet_computes_the_same_bits_without_nasvid(ran, cls):
    folder = ran / cls.model
    output = load_file(folder / "output.safetensors")["output"]
    assert torch.equal(output, load_file(folder / "expected.safetensors")["output"])
    assert output.isfinite().all()
    assert output.std() > 0


def test_nasvid_reads_text_as_the_pipeline_does(pipeline):
    folder = pipeline("text_to_video_sd")
    stock = TextToVideoSDPipeline.from_pretrained(folder)
    folders = {"subfolder": "text_encoder", "tokenizer_subfolder": "tokenizer"}
    text = TextSection(name="clip", path=str(folder), dim=32, keep_padding=True, **folders)
    embedding, mask = text.make().encode(PROMPT, 77)
    theirs, _ = stock.encode_prompt(PROMPT, "cpu", 1, False)
    assert mask.all()
    assert torch.equal(embedding, theirs[0])
