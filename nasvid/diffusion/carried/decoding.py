"""The VAEs of diffusers: latents to videos, normalised as each one's own pipeline does."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from einops import rearrange

PIXELS = 1 << 21
"""Pixels decoded at a time, of one picture or clip at least; limits memory."""


@torch.no_grad()
def decode(
    vae: Any, latents: torch.Tensor, factor: int, temporal_factor: int, **options: Any
) -> torch.Tensor:
    """Return videos `b 3 t h w`, float32, roughly in [-1, 1], of latents `b c t' h' w'`.

    vae: a model of a class of `DECODERS`, or frame-wise. factor, temporal_factor: pixels and frames
    for one of a latent. options: of the class.
    """
    frames, height, width = latents.shape[2:]
    area = height * width * factor**2
    if type(vae).__name__ == FRAME_WISE:
        return _pictures(vae, latents, max(1, PIXELS // area))
    together = max(1, PIXELS // (area * frames * temporal_factor))
    decoder = DECODERS[type(vae).__name__]
    parts = (part.to(_device_of(vae), vae.dtype) for part in latents.split(together))
    return torch.cat([decoder(vae, part, **options).float() for part in parts])


def _pictures(vae: Any, latents: torch.Tensor, together: int) -> torch.Tensor:
    scale, shift = vae.config.scaling_factor, float(vae.config.get("shift_factor") or 0.0)
    # Without a shift as the pipelines for videos of such VAEs do, with one as those that have it:
    # the two differ in the last bit.
    latents = latents / scale + shift if shift else 1 / scale * latents
    return by_frame(vae, latents, together, lambda part: vae.decode(part).sample)


def by_frame(
    vae: Any,
    video: torch.Tensor,
    together: int,
    apply: Callable[[torch.Tensor], torch.Tensor],
) -> torch.Tensor:
    """Apply a function to the frames of `b c t h w`, `together` at a time; float32."""
    frames = video.shape[2]
    flat = rearrange(video.to(_device_of(vae), vae.dtype), "b c t h w -> (b t) c h w")
    parts = [apply(part.contiguous()).float() for part in flat.split(together)]
    return rearrange(torch.cat(parts), "(b t) c h w -> b c t h w", t=frames).contiguous()


def _wan(vae: Any, latents: torch.Tensor) -> torch.Tensor:
    mean, inverse = wan_moments(vae, latents)
    return vae.decode(latents / inverse + mean).sample


def wan_moments(vae: Any, like: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the mean and the inverse deviation of each channel of Wan's latents."""
    inverse = 1.0 / by_channel(torch.tensor(vae.config.latents_std), like)
    return by_channel(torch.tensor(vae.config.latents_mean), like), inverse


def _ltx(
    vae: Any,
    latents: torch.Tensor,
    *,
    decode_timestep: float = 0.0,
    decode_noise_scale: float | None = None,
) -> torch.Tensor:
    mean, deviation = (by_channel(each, latents) for each in (vae.latents_mean, vae.latents_std))
    latents = latents * deviation / vae.config.scaling_factor + mean
    with _fixed_randomness(latents.device):
        if not vae.config.timestep_conditioning:
            return vae.decode(latents).sample
        scale = decode_timestep if decode_noise_scale is None else decode_noise_scale
        noise = torch.randn(latents.shape, dtype=latents.dtype).to(latents.device)
        times = torch.full((len(latents),), decode_timestep, device=latents.device)
        mixed = (1 - scale) * latents + scale * noise
        return vae.decode(mixed, times.to(latents.dtype)).sample


def _cogvideox(vae: Any, latents: torch.Tensor) -> torch.Tensor:
    return vae.decode(1 / vae.config.scaling_factor * latents).sample


def _hunyuan_video(vae: Any, latents: torch.Tensor) -> torch.Tensor:
    return vae.decode(latents / vae.config.scaling_factor).sample


FRAME_WISE = "AutoencoderKL"
DECODERS: dict[str, Callable[..., torch.Tensor]] = {
    "AutoencoderKLWan": _wan,
    "AutoencoderKLLTXVideo": _ltx,
    "AutoencoderKLCogVideoX": _cogvideox,
    "AutoencoderKLHunyuanVideo": _hunyuan_video,
}
"""Class -> how it decodes normalised latents, besides the frame-wise one."""


def by_channel(values: torch.Tensor, like: torch.Tensor) -> torch.Tensor:
    """Return a number for each channel of `b c t h w`."""
    return rearrange(values, "c -> 1 c 1 1 1").to(like.device, like.dtype)


def _device_of(vae: Any) -> torch.device:
    """Return where a VAE computes; one that is offloaded lies elsewhere until then."""
    return getattr(getattr(vae, "_hf_hook", None), "execution_device", None) or vae.device


def aligned(model: torch.nn.Module) -> None:
    """Copy weights out of a mapped file: kernels round differently for unaligned ones."""
    for weight in model.parameters():
        weight.data = weight.data.clone()


@contextmanager
def _fixed_randomness(device: torch.device) -> Iterator[None]:
    """Let what draws from the global generators draw the same each time, and leave them alone."""
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        torch.manual_seed(0)
        yield
