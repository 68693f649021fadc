"""The causal video VAEs of diffusers, each normalised as its own pipeline does, to the bit.

The first frame has a latent of its own, so that a picture is a clip of one frame.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from pydantic import Field

from nasvid.diffusion.carried.decoding import by_channel, wan_moments
from nasvid.latents.vae import DiffusersVae
from nasvid.vae import Compression, VaeConfig


class WanVae(DiffusersVae[VaeConfig]):
    """The VAE of Wan: 4 frames to one, a mean and a deviation for each channel."""

    stock = "AutoencoderKLWan"

    def _compression(self, model: Any) -> Compression:
        config = model.config
        return Compression(
            channels=config.z_dim,
            factor=config.scale_factor_spatial,
            temporal_factor=config.scale_factor_temporal,
            frame_step=config.scale_factor_temporal,
        )

    def _normalised(self, latents: torch.Tensor) -> torch.Tensor:
        mean, inverse = wan_moments(self.model, latents)
        return (latents - mean) * inverse


class LtxVaeConfig(VaeConfig):
    """Options of AutoencoderKLLTXVideo."""

    decode_timestep: float = Field(default=0.0, ge=0, le=1)
    """For a decoder that takes a timestep: the one that it is given."""
    decode_noise_scale: float | None = Field(default=None, ge=0, le=1)
    """For such a decoder: how much noise is mixed into latents first; null: as much as
    `decode_timestep`."""


class LtxVae(DiffusersVae[LtxVaeConfig]):
    """The VAE of LTX-Video: 8 frames to one, a mean and a deviation for each channel.

    A decoder that takes noise gets the same for every video, so that a video is decoded alike each
    time.
    """

    stock = "AutoencoderKLLTXVideo"

    @property
    def decoding(self) -> Mapping[str, Any]:
        """The options of a decoder that takes a timestep."""
        return {
            "decode_timestep": self.config.decode_timestep,
            "decode_noise_scale": self.config.decode_noise_scale,
        }

    def _compression(self, model: Any) -> Compression:
        return _by_ratios(model)

    def _normalised(self, latents: torch.Tensor) -> torch.Tensor:
        moments = (self.model.latents_mean, self.model.latents_std)
        mean, deviation = (by_channel(each, latents) for each in moments)
        return (latents - mean) * self.model.config.scaling_factor / deviation


class CogVideoXVae(DiffusersVae[VaeConfig]):
    """The VAE of CogVideoX: 4 frames to one, decoded two latent frames at a time after the first.

    So only 8k + 1 frames come back as they were.
    """

    stock = "AutoencoderKLCogVideoX"

    def _compression(self, model: Any) -> Compression:
        temporal_factor = int(model.config.temporal_compression_ratio)
        return Compression(
            channels=model.config.latent_channels,
            factor=2 ** (len(model.config.block_out_channels) - 1),
            temporal_factor=temporal_factor,
            frame_step=temporal_factor * model.num_latent_frames_batch_size,
        )

    def _normalised(self, latents: torch.Tensor) -> torch.Tensor:
        return self.model.config.scaling_factor * latents


class HunyuanVideoVae(DiffusersVae[VaeConfig]):
    """The VAE of HunyuanVideo: 4 frames to one."""

    stock = "AutoencoderKLHunyuanVideo"

    def _compression(self, model: Any) -> Compression:
        return _by_ratios(model)

    def _normalised(self, latents: torch.Tensor) -> torch.Tensor:
        return latents * self.model.config.scaling_factor


def _by_ratios(model: Any) -> Compression:
    """Return what a class's own ratios say."""
    return Compression(
        channels=model.config.latent_channels,
        factor=model.spatial_compression_ratio,
        temporal_factor=model.temporal_compression_ratio,
        frame_step=model.temporal_compression_ratio,
    )
