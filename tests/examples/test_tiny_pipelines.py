"""The stand-ins for stock pipelines: whole, of the stock classes, made without a network."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import DiffusionPipeline
from diffusers.pipelines.hunyuan_video.pipeline_hunyuan_video import DEFAULT_PROMPT_TEMPLATE

from examples.tiny_pipelines.make import PIPELINES, make

pytestmark = pytest.mark.slow

STOCK = {
    "wan": (["WanPipeline", "AutoencoderKLWan", "UMT5EncoderModel"], (5, 32, 48)),
    "ltx": (["LTXPipeline", "AutoencoderKLLTXVideo", "T5EncoderModel"], (9, 32, 64)),
    "cogvideox": (["CogVideoXPipeline", "AutoencoderKLCogVideoX", "T5EncoderModel"], (9, 32, 32)),
    "hunyuan_video": (
        ["HunyuanVideoPipeline", "AutoencoderKLHunyuanVideo", "LlamaModel"],
        (5, 32, 48),
    ),
    "text_to_video_sd": (["TextToVideoSDPipeline", "AutoencoderKL", "CLIPTextModel"], (3, 64, 64)),
}


@pytest.mark.parametrize("name", PIPELINES)
def test_a_stand_in_opens_as_the_stock_pipeline_and_makes_a_video(
    name: str, pipeline: Callable[[str], Path]
) -> None:
    opened: Any = DiffusionPipeline.from_pretrained(str(pipeline(name)))
    classes, (frames, height, width) = STOCK[name]
    parts = (opened, opened.vae, opened.text_encoder)
    assert [type(part).__name__ for part in parts] == classes
    opened.set_progress_bar_config(disable=True)
    video = opened(
        "a cat runs",
        num_frames=frames,
        height=height,
        width=width,
        num_inference_steps=2,
        generator=torch.Generator().manual_seed(0),
        output_type="pt",
    ).frames
    assert video.shape == (1, frames, 3, height, width)
    assert 0.01 < video.std() < 0.5


def contents(folder: Path) -> dict[str, bytes]:
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file()
    }


def test_the_same_seed_makes_the_same_files(
    pipeline: Callable[[str], Path], tmp_path: Path
) -> None:
    first = contents(pipeline("wan"))
    assert contents(make("wan", tmp_path / "same")) == first
    other = contents(make("wan", tmp_path / "other", seed=1))
    assert other.keys() == first.keys()
    assert other != first


def test_hunyuan_videos_template_is_as_long_as_what_the_pipeline_cuts_off(
    pipeline: Callable[[str], Path],
) -> None:
    opened: Any = DiffusionPipeline.from_pretrained(str(pipeline("hunyuan_video")))
    before, _ = DEFAULT_PROMPT_TEMPLATE["template"].split("{}")
    assert len(opened.tokenizer(before).input_ids) == DEFAULT_PROMPT_TEMPLATE["crop_start"]
