"""The frame-wise VAE: an AutoencoderKL of diffusers, for pictures."""

from __future__ import annotations

from typing import Any

import torch

from nasvid.diffusion.carried.decoding import FRAME_WISE, PIXELS, by_frame
from nasvid.latents.vae import DiffusersVae
from nasvid.vae import Compression, VaeConfig


class FrameWise(DiffusersVae[VaeConfig]):
    """Encodes and decodes each frame alone: any number of frames, as many latent ones."""

    stock = FRAME_WISE

    @torch.no_grad()
    def encode(self, video: torch.Tensor) -> torch.Tensor:
        """Return the posteriors' means, shifted and scaled by the model's config."""
        together = max(1, PIXELS // (video.shape[3] * video.shape[4]))
        means = by_frame(
            self.model, video, together, lambda part: self.model.encode(part).latent_dist.mode()
        )
        return self._normalised(means)

    def _compression(self, model: Any) -> Compression:
        levels = len(model.config.block_out_channels)
        return Compression(channels=model.config.latent_channels, factor=2 ** (levels - 1))

    def _normalised(self, latents: torch.Tensor) -> torch.Tensor:
        config = self.model.config
        return (latents - float(config.get("shift_factor") or 0.0)) * config.scaling_factor
