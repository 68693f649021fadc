"""Extracted subnets of diffusers' classes are stock models: they run where nasvid is not."""

import json
import subprocess
import sys
from dataclasses import fields
from pathlib import Path

import numpy as np
import pytest
import torch
from diffusers import AutoencoderKL, DDIMScheduler, TextToVideoSDPipeline
from safetensors.torch import load_file, save_file
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer

from nasvid.export.subnet import subfolder
from nasvid.host.aligned import save_aligned
from nasvid.shapes import Domain, VideoShape
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
def ran(tiny_space, tmp_path_factory) -> Path:
    """A folder of extracted subnets and a pipeline, run in a process that cannot import nasvid."""
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
    write_pipeline(tiny_space, folder / "pipeline")
    script = Path(__file__).with_name("stock.py")
    done = subprocess.run(
        [sys.executable, "-W", "ignore", script, folder],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return folder


def write_pipeline(tiny_space, folder: Path) -> None:
    """Write a whole text-to-video pipeline of stock parts, its denoiser an extracted subnet."""
    torch.manual_seed(0)
    tokenizer = make_tokenizer(folder.parent / "tokenizer")
    text = CLIPTextModel(
        CLIPTextConfig(
            vocab_size=len(tokenizer),
            hidden_size=16,
            intermediate_size=16,
            num_hidden_layers=1,
            num_attention_heads=2,
            max_position_embeddings=8,
        )
    )
    vae = AutoencoderKL(
        block_out_channels=(8, 8),
        norm_num_groups=4,
        latent_channels=4,
        down_block_types=("DownEncoderBlock2D",) * 2,
        up_block_types=("UpDecoderBlock2D",) * 2,
    )
    unet = extracted(tiny_space)
    pipeline = TextToVideoSDPipeline(vae.eval(), text.eval(), tokenizer, unet, DDIMScheduler())
    pipeline.save_pretrained(folder)
    save_aligned(unet, folder / "unet")
    save_aligned(vae, folder / "vae")


def extracted(tiny_space) -> torch.nn.Module:
    """Return the smallest UNet of a supernet, always the same."""
    space = tiny_space(UNet3DSpace, Domain(channels=4, context_dim=16))
    torch.manual_seed(1)
    return Supernet(space).extract(space.smallest).eval()


def make_tokenizer(folder: Path) -> CLIPTokenizer:
    """Return CLIP's tokenizer over real vocabulary and merges files, of three words."""
    letters = sorted(set(PROMPT.replace(" ", "")))
    pieces = [*letters, *(f"{letter}</w>" for letter in letters)]
    merges = ["c a", "ca t</w>", "r u", "n s</w>", "ru ns</w>"]
    words = [*pieces, *(merge.replace(" ", "") for merge in merges)]
    vocabulary = {word: i for i, word in enumerate(["<|startoftext|>", "<|endoftext|>", *words])}
    folder.mkdir()
    (folder / "vocab.json").write_text(json.dumps(vocabulary))
    (folder / "merges.txt").write_text("\n".join(["#version: 0.2", *merges]))
    (folder / "tokenizer_config.json").write_text(
        json.dumps({"tokenizer_class": "CLIPTokenizer", "model_max_length": 8})
    )
    return CLIPTokenizer.from_pretrained(folder)


@pytest.mark.parametrize("cls", CLASSES, ids=lambda cls: cls.model)
def test_an_extracted_subnet_computes_the_same_bits_without_nasvid(ran, cls):
    folder = ran / cls.model
    output = load_file(folder / "output.safetensors")["output"]
    assert torch.equal(output, load_file(folder / "expected.safetensors")["output"])
    assert output.isfinite().all()
    assert output.std() > 0


def test_a_stock_pipeline_makes_the_same_video_without_nasvid(ran, tiny_space):
    frames = load_file(ran / "pipeline" / "frames.safetensors")["frames"]
    assert frames.shape == (1, 4, 3, 32, 32)
    assert frames.std() > 0.01
    pipeline = TextToVideoSDPipeline.from_pretrained(ran / "pipeline")
    pipeline.set_progress_bar_config(disable=True)
    pipeline.unet = extracted(tiny_space)
    here = pipeline(
        PROMPT,
        height=32,
        width=32,
        num_frames=4,
        num_inference_steps=3,
        guidance_scale=3.0,
        generator=torch.Generator().manual_seed(0),
        output_type="pt",
    ).frames
    assert torch.equal(frames, here)


def test_nasvid_reads_text_as_the_pipeline_does(ran):
    pipeline = TextToVideoSDPipeline.from_pretrained(ran / "pipeline")
    folders = {"subfolder": "text_encoder", "tokenizer_subfolder": "tokenizer"}
    text = TextSection(
        name="clip", path=str(ran / "pipeline"), dim=16, keep_padding=True, **folders
    )
    embedding, mask = text.make().encode(PROMPT, 8)
    theirs, _ = pipeline.encode_prompt(PROMPT, "cpu", 1, False)
    assert mask.all()
    assert torch.equal(embedding, theirs[0])
