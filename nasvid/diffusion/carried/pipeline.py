"""Text to video by a denoiser that takes a video, its timestep, text and frame rate."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from diffusers.pipelines.pipeline_utils import DiffusionPipeline
from diffusers.utils.outputs import BaseOutput
from diffusers.video_processor import VideoProcessor

from nasvid.diffusion.carried.arguments import (
    LATENTS,
    check_call,
    latent_size,
    negatives_of,
    noise_of,
    repeated,
)
from nasvid.diffusion.carried.decoding import aligned, decode
from nasvid.diffusion.carried.denoising import denoised
from nasvid.diffusion.carried.llama_clip import embed_pair
from nasvid.diffusion.carried.saving import save_code
from nasvid.diffusion.carried.tokens import (
    DTYPES,
    Embedded,
    cleaned,
    embed_tokens,
    precision_on,
)

SETTINGS = {
    "context_len": 16,
    "fps": 8.0,
    "channels": 3,
    "factor": 1,
    "temporal_factor": 1,
    "frame_step": 1,
    "padding": "zeros",
    "precision": "fp32",
    "clean": "",
    "decoding": {},
    "height": None,
    "width": None,
    "num_frames": None,
    "num_inference_steps": 24,
    "guidance_scale": 4.0,
}
"""What a pipeline is made for: text tokens, frames per second and channels; pixels and frames for
one of a latent, and the step of frames; how the text encoder is used; options of the VAE's decoder;
what a call takes by default."""
OnStepEnd = Callable[[Any, int, Any, dict[str, Any]], dict[str, Any]]


@dataclass
class Videos(BaseOutput):
    """Videos, one for each prompt, as `output_type` says."""

    frames: Any


class TextToVideo(DiffusionPipeline):
    """Makes videos of text.

    scheduler: leads from noise to a video. text_encoder: a model of transformers, with a
    `tokenizer`, or a part whose `encode` gives embeddings and masks; the second pair, if there is
    one, embeds captions as a whole. unet, transformer, denoiser: one of them is the model. vae:
    decodes latents; without one the model denoises pixels. settings: those of `SETTINGS` that
    differ.
    """

    _optional_components = [  # noqa: RUF012
        *("unet", "transformer", "denoiser", "tokenizer", "text_encoder_2", "tokenizer_2", "vae")
    ]
    _callback_tensor_inputs = [LATENTS]  # noqa: RUF012
    model_cpu_offload_seq = "text_encoder->text_encoder_2->unet->transformer->denoiser->vae"

    def __init__(
        self,
        scheduler: Any,
        text_encoder: Any,
        unet: Any = None,
        transformer: Any = None,
        denoiser: Any = None,
        tokenizer: Any = None,
        text_encoder_2: Any = None,
        tokenizer_2: Any = None,
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
            text_encoder_2=text_encoder_2,
            tokenizer_2=tokenizer_2,
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
        height: int | None = None,
        width: int | None = None,
        num_frames: int | None = None,
        num_inference_steps: int | None = None,
        guidance_scale: float | None = None,
        generator: torch.Generator | Sequence[torch.Generator] | None = None,
        output_type: str = "pil",
        *,
        negative_prompt: str | Sequence[str] | None = None,
        num_videos_per_prompt: int = 1,
        frame_rate: float | None = None,
        latents: torch.Tensor | None = None,
        return_dict: bool = True,
        callback_on_step_end: OnStepEnd | None = None,
        callback_on_step_end_tensor_inputs: Sequence[str] = (LATENTS,),
    ) -> Videos | tuple[Any]:
        """Return videos for each prompt; what is None is as in `settings`.

        height, width, num_frames: in pixels and frames. guidance_scale: 1 is none. generator: of
        the noise, or one for each video. output_type: `pil` for lists of pictures, `np` for
        `b t h w c` and `pt` for `b t c h w`, both in [0, 1]; `latent` for what is decoded to them,
        `b c t h w`. negative_prompt: what guidance leads away from; none is a video without a
        caption. frame_rate: frames per second that the model is told of. latents: noise to begin
        with. callback_on_step_end: is given the pipeline, the step's number, its timestep, and the
        `latents`, and may return others.

        Raises:
            ValueError: an argument is none that the pipeline takes.
        """
        check_call(output_type, callback_on_step_end_tensor_inputs)
        settings, device = dict(self.settings), self._execution_device
        given = {
            "height": height,
            "width": width,
            "num_frames": num_frames,
            "num_inference_steps": num_inference_steps,
            "guidance_scale": guidance_scale,
            "fps": frame_rate,
        }
        settings |= {name: value for name, value in given.items() if value is not None}
        prompts = repeated(prompt, num_videos_per_prompt)
        negatives = negatives_of(negative_prompt, prompt, num_videos_per_prompt)
        noise = noise_of(latent_size(settings), len(prompts), generator, latents).to(device)
        context, mask = self.encode_prompt([*prompts, *negatives])
        rates = torch.full((2 * len(prompts),), settings["fps"], device=device)
        (model,) = filter(None, (self.unet, self.transformer, self.denoiser))

        def predict(video: torch.Tensor, timestep: torch.Tensor) -> torch.Tensor:
            return model(video.to(model.dtype), timestep, context.to(model.dtype), mask, rates)

        def on_step(number: int, timestep: torch.Tensor, video: torch.Tensor) -> torch.Tensor:
            bar.update()
            if callback_on_step_end is None:
                return video
            tensors = dict.fromkeys(callback_on_step_end_tensor_inputs, video)
            returned = callback_on_step_end(self, number, timestep, tensors)
            return (returned or {}).get(LATENTS, video)

        steps, scale = settings["num_inference_steps"], settings["guidance_scale"]
        show: Any = self.progress_bar
        with show(total=steps) as bar:
            video = denoised(predict, self.scheduler, noise, steps, scale, on_step)
        frames = video if output_type == "latent" else self._decoded(video, output_type)
        self.maybe_free_model_hooks()
        return Videos(frames=frames) if return_dict else (frames,)

    def encode_prompt(self, captions: Sequence[str]) -> tuple[torch.Tensor, torch.Tensor]:
        """Return embeddings `b l d`, float32, and mask `b l`; each caption is encoded once."""
        distinct = list(dict.fromkeys(captions))
        found = dict(zip(distinct, self._encoded(distinct), strict=True))
        device = self._execution_device
        context = torch.stack([found[caption][0] for caption in captions])
        mask = torch.stack([found[caption][1] for caption in captions])
        return context.to(device), mask.to(device)

    def save_config(  # pyright: ignore[reportIncompatibleMethodOverride]
        self, save_directory: Any, **options: Any
    ) -> None:
        """Write `model_index.json`, and beside it the code that the folder is opened with."""
        super().save_config(save_directory, **options)
        save_code(self, save_directory)

    @property
    def settings(self) -> dict[str, Any]:
        """What `SETTINGS` are here."""
        return self.config["settings"]

    def _encoded(self, captions: list[str]) -> Embedded:
        length = self.settings["context_len"]
        if self.tokenizer is None:
            return self.text_encoder.encode(captions, length)
        first = (self.tokenizer, self.text_encoder)
        second = (self.tokenizer_2, self.text_encoder_2)
        device = self._execution_device
        for _, encoder in (first, second):
            if encoder is not None:
                encoder.to(DTYPES[precision_on(device, self.settings["precision"])])

        found: Embedded = []
        for caption in captions:  # each alone, as in the pipelines whose parts these are
            if self.text_encoder_2 is not None:
                found += embed_pair([caption], length, first, second)
            else:
                texts = cleaned([caption], self.settings["clean"])
                found += embed_tokens(*first, texts, length, self.settings["padding"])
        return found

    def _decoded(self, video: torch.Tensor, output_type: str) -> Any:
        if self.vae is not None:
            factors = (self.settings["factor"], self.settings["temporal_factor"])
            video = decode(self.vae, video, *factors, **self.settings["decoding"])
        return self.video_processor.postprocess_video(video, output_type=output_type)
