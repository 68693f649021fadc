"""Text to video by a denoiser that takes a video, its timestep, text and frame rate."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from diffusers.pipelines.pipeline_utils import DiffusionPipeline
from diffusers.utils.outputs import BaseOutput
from diffusers.video_processor import VideoProcessor

from nasvid.diffusion.carried.decoding import aligned, decode
from nasvid.diffusion.carried.denoising import denoised
from nasvid.diffusion.carried.tokens import (
    DTYPES,
    Embedded,
    cleaned,
    embed_tokens,
    in_batches,
    precision_on,
)

SETTINGS = {
    "context_len": 16,
    "fps": 8.0,
    "channels": 3,
    "factor": 1,
    "temporal_factor": 1,
    "padding": "zeros",
    "precision": "fp32",
    "clean": "",
    "decoding": {},
}
"""What a pipeline is made for: text tokens, frames per second and channels; pixels and frames for
one of a latent; how the text encoder is used; options of the VAE's decoder."""


@dataclass
class Videos(BaseOutput):
    """Videos, one for each prompt, as `output_type` says."""

    frames: Any


class TextToVideo(DiffusionPipeline):
    """Makes videos of text.

    scheduler: leads from noise to a video. text_encoder: a model of transformers, with a
    `tokenizer`, or a part whose `encode` gives embeddings and masks. unet, transformer, denoiser:
    one of them is the model. vae: decodes latents; without one the model denoises pixels.
    settings: those of `SETTINGS` that differ.
    """

    _optional_components = ["unet", "transformer", "denoiser", "tokenizer", "vae"]  # noqa: RUF012
    model_cpu_offload_seq = "text_encoder->unet->transformer->denoiser->vae"

    def __init__(
        self,
        scheduler: Any,
        text_encoder: Any,
        unet: Any = None,
        transformer: Any = None,
        denoiser: Any = None,
        tokenizer: Any = None,
        vae: Any = None,
        settings: dict[str, Any] | None = None,
    ) -> None:
        super().__init__()
        self.register_modules(
            scheduler=scheduler,
            text_encoder=text_encoder,
            unet=unet,
            transformer=transformer,
            denoiser=denoiser,
            tokenizer=tokenizer,
            vae=vae,
        )
        self.register_to_config(settings={**SETTINGS, **(settings or {})})
        self.video_processor = VideoProcessor(vae_scale_factor=1)
        if vae is not None:
            aligned(vae)

    @torch.no_grad()
    def __call__(
        self,
        prompt: str | Sequence[str],
        height: int,
        width: int,
        num_frames: int,
        num_inference_steps: int = 24,
        guidance_scale: float = 4.0,
        generator: torch.Generator | None = None,
        output_type: str = "pil",
    ) -> Videos:
        """Return a video for each prompt.

        height, width, num_frames: in pixels and frames. guidance_scale: 1 is none. generator: of
        the noise. output_type: `pil` for lists of pictures, `np` for `b t h w c` and `pt` for
        `b t c h w`, both in [0, 1].
        """
        settings, device = self.settings, self._execution_device
        prompts = [prompt] if isinstance(prompt, str) else list(prompt)
        size = (
            settings["channels"],
            (num_frames - 1) // settings["temporal_factor"] + 1,
            height // settings["factor"],
            width // settings["factor"],
        )
        noise = torch.stack([_noise(size, generator) for _ in prompts]).to(device)
        context, mask = self.encode_prompt([*prompts, *[""] * len(prompts)])
        rates = torch.full((2 * len(prompts),), settings["fps"], device=device)
        (model,) = filter(None, (self.unet, self.transformer, self.denoiser))

        def predict(video: torch.Tensor, timestep: torch.Tensor) -> torch.Tensor:
            return model(video, timestep, context, mask, rates)

        video = denoised(predict, self.scheduler, noise, num_inference_steps, guidance_scale)
        if self.vae is not None:
            factors = (settings["factor"], settings["temporal_factor"])
            video = decode(self.vae, video, *factors, **settings["decoding"])
        self.maybe_free_model_hooks()
        return Videos(frames=self.video_processor.postprocess_video(video, output_type=output_type))

    def encode_prompt(self, captions: Sequence[str]) -> tuple[torch.Tensor, torch.Tensor]:
        """Return embeddings `b l d`, float32, and mask `b l`; each caption is encoded once."""
        distinct = list(dict.fromkeys(captions))
        found = dict(zip(distinct, self._encoded(distinct), strict=True))
        device = self._execution_device
        context = torch.stack([found[caption][0] for caption in captions])
        mask = torch.stack([found[caption][1] for caption in captions])
        return context.to(device), mask.to(device)

    def _encoded(self, captions: list[str]) -> Embedded:
        encoder, length = self.text_encoder, self.settings["context_len"]
        if self.tokenizer is None:
            return encoder.encode(captions, length)
        encoder.to(DTYPES[precision_on(encoder.device, self.settings["precision"])])

        def encode(part: list[str]) -> Embedded:
            texts = cleaned(part, self.settings["clean"])
            return embed_tokens(self.tokenizer, encoder, texts, length, self.settings["padding"])

        return in_batches(captions, encoder.device, encode)

    @property
    def settings(self) -> dict[str, Any]:
        """What `SETTINGS` are here."""
        return self.config["settings"]


def _noise(size: tuple[int, ...], generator: torch.Generator | None) -> torch.Tensor:
    device = generator.device if generator is not None else torch.device("cpu")
    return torch.randn(size, generator=generator, device=device)
