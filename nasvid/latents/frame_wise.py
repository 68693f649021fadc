"""The frame-wise VAE: an AutoencoderKL of diffusers, for pictures."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from einops import rearrange

from nasvid.latents.vae import PIXELS, DiffusersVae
from nasvid.vae import Compression, VaeConfig


class FrameWise(DiffusersVae[VaeConfig]):
    """Encodes and decodes each frame alone: any number of frames, as many latent ones."""

    stock = "AutoencoderKL"

    @torch.no_grad()
    def encode(self, video: torch.Tensor) -> torch.Tensor:
        """Return the posteriors' means, shifted and scaled by the model's config."""
        means = self._by_frame(video, lambda x: self.model.encode(x).latent_dist.mode())
        return self._normalised(means)

    @torch.no_grad()
    def decode(self, latents: torch.Tensor) -> torch.Tensor:
        """Return the videos of latents."""
        return self._decoded(latents)

    def _compression(self, model: Any) -> Compression:
        levels = len(model.config.block_out_channels)
        return Compression(channels=model.config.latent_channels, factor=2 ** (levels - 1))

    def _normalised(self, latents: torch.Tensor) -> torch.Tensor:
        return (latents - self._shift) * self.model.config.scaling_factor

    def _decoded(self, latents: torch.Tensor) -> torch.Tensor:
        scale = self.model.config.scaling_factor
        # Without a shift as the pipelines for videos of such VAEs do, with one as those that have
        # it: the two differ in the last bit.
        latents = latents / scale + self._shift if self._shift else 1 / scale * latents
        return self._by_frame(latents, self._picture, self.compression.factor)

    def _picture(self, latents: torch.Tensor) -> torch.Tensor:
        return self.model.decode(latents).sample

    @property
    def _shift(self) -> float:
        return float(self.model.config.get("shift_factor") or 0.0)

    def _by_frame(
        self,
        video: torch.Tensor,
        apply: Callable[[torch.Tensor], torch.Tensor],
        factor: int = 1,
    ) -> torch.Tensor:
        _, _, frames, height, width = video.shape
        flat = rearrange(self._placed(video), "b c t h w -> (b t) c h w")
        size = max(1, PIXELS // (height * width * factor**2))
        parts = [apply(part.contiguous()).float() for part in flat.split(size)]
        pictures = torch.cat(parts)
        return rearrange(pictures, "(b t) c h w -> b c t h w", t=frames).contiguous()
