"""The VAEs of diffusers' video pipelines: they encode and decode as those do, to the bit."""

import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import AutoencoderKLLTXVideo, DiffusionPipeline, WanVideoToVideoPipeline

from nasvid import plugins
from nasvid.errors import UserError
from nasvid.latents.causal import CogVideoXVae, HunyuanVideoVae, LtxVae, WanVae
from nasvid.latents.frame_wise import FrameWise
from nasvid.latents.vae import check_vae, completed, make_vae
from nasvid.recipe.sections import VaeSection
from nasvid.testing import VaeConformance
from nasvid.vae import Compression, Vae

pytestmark = pytest.mark.slow

Pipeline = Callable[[str], Path]
VIDEO = {
    "wan": (WanVae, Compression(channels=16, factor=8, temporal_factor=4, frame_step=4)),
    "ltx": (LtxVae, Compression(channels=128, factor=32, temporal_factor=8, frame_step=8)),
    "cogvideox": (
        CogVideoXVae,
        Compression(channels=16, factor=8, temporal_factor=4, frame_step=8),
    ),
    "hunyuan_video": (
        HunyuanVideoVae,
        Compression(channels=16, factor=8, temporal_factor=4, frame_step=4),
    ),
}
FRAMES = (1, 17)
"""A picture, and more than the chunks in which some encode and decode."""


def made(folder: Path, **options: Any) -> Vae:
    return make_vae(VaeSection(path=str(folder), **options))


def clips(frames: int, side: int, n: int = 2) -> torch.Tensor:
    generator = torch.Generator().manual_seed(frames)
    return torch.rand(n, 3, frames, side, side + 32, generator=generator) * 2 - 1


class _OfPipeline(VaeConformance):
    pipeline_name: str

    @pytest.fixture(autouse=True)
    def folder(self, pipeline: Pipeline) -> None:
        type(self).options = {"path": str(pipeline(self.pipeline_name))}


class TestFrameWise(_OfPipeline):
    vae, pipeline_name = FrameWise, "text_to_video_sd"


class TestWan(_OfPipeline):
    vae, pipeline_name = WanVae, "wan"


class TestLtx(_OfPipeline):
    vae, pipeline_name = LtxVae, "ltx"


class TestCogVideoX(_OfPipeline):
    vae, pipeline_name = CogVideoXVae, "cogvideox"


class TestHunyuanVideo(_OfPipeline):
    vae, pipeline_name = HunyuanVideoVae, "hunyuan_video"


@pytest.mark.parametrize("name", VIDEO)
def test_a_pipelines_folder_says_class_and_compression(name: str, pipeline: Pipeline) -> None:
    cls, compression = VIDEO[name]
    vae = made(pipeline(name))
    assert type(vae) is cls
    assert vae.compression == compression
    section = completed(VaeSection(path=str(pipeline(name))))
    found = (section.channels, section.factor, section.temporal_factor)
    assert found == (compression.channels, compression.factor, compression.temporal_factor)
    check_vae(section)


@pytest.mark.parametrize("name", VIDEO)
def test_the_weights_bytes_are_known_before_they_are_loaded(name: str, pipeline: Pipeline) -> None:
    vae: Any = made(pipeline(name))
    size = vae.weight_bytes()
    assert "model" not in vars(vae)
    model = vae.model
    assert size == sum(tensor.nbytes for tensor in model.state_dict().values())
    vae.release()
    assert vae.model is not model


@pytest.mark.parametrize("name", VIDEO)
@pytest.mark.parametrize("frames", FRAMES)
@torch.no_grad()
def test_latents_and_videos_are_the_stock_pipelines(
    name: str, frames: int, pipeline: Pipeline, monkeypatch: pytest.MonkeyPatch
) -> None:
    vae = made(pipeline(name))
    stock = opened(pipeline(name))
    video = clips(frames, max(16, vae.compression.factor))
    latents = vae.encode(video)
    assert torch.equal(latents, ENCODED[name](stock, video))
    assert torch.equal(vae.decode(latents), decoded(stock, latents, video, monkeypatch))


def opened(folder: Path) -> Any:
    pipeline: Any = DiffusionPipeline.from_pretrained(str(folder))
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


def means(stock: Any, video: torch.Tensor) -> torch.Tensor:
    return torch.cat([stock.vae.encode(clip[None]).latent_dist.mode() for clip in video])


def wan_latents(stock: Any, video: torch.Tensor) -> torch.Tensor:
    """Return what Wan's pipeline from a video begins with, before noise."""
    other = WanVideoToVideoPipeline(
        **{part: each for part, each in stock.components.items() if part != "transformer_2"}
    )
    other.scheduler.add_noise = lambda latents, *_: latents
    _, _, _, height, width = video.shape
    return other.prepare_latents(
        video, len(video), 16, height, width, torch.float32, torch.device("cpu")
    )


ENCODED: dict[str, Callable[[Any, torch.Tensor], torch.Tensor]] = {
    "wan": wan_latents,
    "ltx": lambda stock, video: stock._normalize_latents(
        means(stock, video),
        stock.vae.latents_mean,
        stock.vae.latents_std,
        stock.vae.config.scaling_factor,
    ),
    "cogvideox": lambda stock, video: stock.vae_scaling_factor_image * means(stock, video),
    "hunyuan_video": lambda stock, video: means(stock, video) * stock.vae.config.scaling_factor,
}
LATENTS: dict[str, Callable[[Any, torch.Tensor], torch.Tensor]] = {
    "LTXPipeline": lambda stock, latents: stock._pack_latents(latents),
    "CogVideoXPipeline": lambda _, latents: latents.permute(0, 2, 1, 3, 4),
}
"""How a pipeline arranges latents while it denoises."""


def decoded(
    stock: Any, latents: torch.Tensor, video: torch.Tensor, patch: pytest.MonkeyPatch
) -> torch.Tensor:
    """Return what a whole stock pipeline makes of latents that its last step has arrived at."""
    name = type(stock).__name__
    arrived = LATENTS[name](stock, latents) if name in LATENTS else latents
    patch.setattr(stock.scheduler, "step", lambda *_, **__: (arrived,))
    patch.setattr(stock.video_processor, "postprocess_video", lambda video, **_: video)
    return stock(
        ["a cat", "a dog"],
        num_frames=video.shape[2],
        height=video.shape[3],
        width=video.shape[4],
        num_inference_steps=2,
        guidance_scale=1.0,
        generator=torch.Generator().manual_seed(0),
    ).frames


@torch.no_grad()
def test_tiles_are_the_stock_models(pipeline: Pipeline) -> None:
    """Frames larger than a tile; their latents are others, so the identity says it."""
    vae: Any = made(pipeline("hunyuan_video"), tiling=True)
    stock = opened(pipeline("hunyuan_video"))
    stock.vae.enable_tiling()
    assert (vae.model.tile_sample_min_height, vae.model.tile_sample_min_width) == (256, 256)
    video = clips(1, 256, n=1)
    latents = vae.encode(video)
    assert torch.equal(latents, ENCODED["hunyuan_video"](stock, video))
    whole = made(pipeline("hunyuan_video"))
    assert not torch.equal(latents, whole.encode(video))
    assert vae.identity == whole.identity.replace(")", ", tiled)")


def test_a_batch_is_decoded_in_parts_that_fit(
    pipeline: Pipeline, monkeypatch: pytest.MonkeyPatch
) -> None:
    vae: Any = made(pipeline("wan"))
    latents = torch.randn(3, 16, 2, 1, 1, generator=torch.Generator().manual_seed(0))
    whole, real, sizes = vae.decode(latents), vae.model.decode, []
    monkeypatch.setattr("nasvid.diffusion.carried.decoding.PIXELS", 2 * 64 * 8)
    monkeypatch.setattr(vae.model, "decode", lambda z: sizes.append(len(z)) or real(z))
    torch.testing.assert_close(vae.decode(latents), whole)
    assert sizes == [2, 1]


def test_a_decoder_that_takes_a_timestep_and_noise_decodes_alike(
    pipeline: Pipeline, tmp_path: Path
) -> None:
    """Later LTX-Videos; without options as their pipeline does without them."""
    config = json.loads((pipeline("ltx") / "vae" / "config.json").read_text())
    config |= {
        "timestep_conditioning": True,
        "decoder_inject_noise": [True] * 4,
        "decoder_block_out_channels": [8, 16, 32],
        "decoder_layers_per_block": [1] * 4,
        "decoder_spatio_temporal_scaling": [True] * 3,
        "upsample_residual": [True] * 3,
        "upsample_factor": [2] * 3,
    }
    torch.manual_seed(0)
    stock: Any = AutoencoderKLLTXVideo.from_config(config).eval()
    stock.save_pretrained(tmp_path / "vae")
    latents = torch.randn(1, 128, 2, 1, 1)
    plain = made(tmp_path)
    with torch.no_grad(), torch.random.fork_rng():
        torch.manual_seed(0)
        torch.randn(latents.shape)
        expected = stock.decode(latents, torch.zeros(1)).sample
    assert torch.equal(plain.decode(latents), expected)
    later = made(tmp_path, options={"decode_timestep": 0.05, "decode_noise_scale": 0.025})
    assert not torch.equal(later.decode(latents), expected)
    assert torch.equal(later.decode(latents), later.decode(latents))


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"data.frames": 6}, r"data\.frames: the VAE cannot encode 6 frames, but 4k \+ 1; use 5"),
        ({"vae.channels": 4}, r"vae: .*has channels 16, but vae\.channels is 4; set it to 16"),
        ({"vae.temporal_factor": 1}, "has temporal_factor 4, but vae.temporal_factor is 1"),
        ({"vae.options.decode_timestep": 1}, r"vae.options.decode_timestep: .* not permitted"),
        ({"resolutions": "{20: {batch: 1}}"}, "20 is not divisible .* 8, such as 16 or 24"),
        ({"resolutions": "{16x16x6: {batch: 1}}"}, r"6 frames, but 4k \+ 1; use 5 or 9"),
    ],
)
def test_what_the_vae_cannot_take_is_refused_in_a_line(
    changed: dict[str, Any],
    said: str,
    pipeline: Pipeline,
    write_recipe: Callable[..., Path],
    error_of: Callable[..., str],
) -> None:
    changes = {"patch_size: 2": "patch_size: 1", "frames: 4": "frames: 5"}
    recipe = write_recipe(changes, f"vae: {{path: {pipeline('wan')}}}\n")
    sets = [part for key, value in changed.items() for part in ("--set", f"{key}={value}")]
    message = error_of("plan", recipe, *sets)
    assert len(message.splitlines()) == 1
    assert re.search(said, message), message


def test_a_class_that_no_plugin_loads_is_named(pipeline: Pipeline, tmp_path: Path) -> None:
    folder = shutil.copytree(pipeline("wan") / "vae", tmp_path / "vae")
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"_class_name": "AutoencoderKLMochi"}))
    with pytest.raises(UserError, match=r"of class AutoencoderKLMochi, .*: AutoencoderKL, "):
        make_vae(VaeSection(path=str(folder)))
    assert set(plugins.available("vaes")) >= {cls.stock for cls, _ in VIDEO.values()}
