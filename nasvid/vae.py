"""Vae: videos to the latents that are denoised, and back. It is frozen."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from typing_extensions import TypeVar

from nasvid.host.words import counted
from nasvid.plugins.config import Config, ModelPath
from nasvid.plugins.plugin import Plugin

if TYPE_CHECKING:
    import torch


@dataclass(frozen=True, slots=True, kw_only=True)
class Compression:
    """How a VAE's latents relate to pixels.

    channels: of a latent. factor: pixels of height and width for one of a latent.
    temporal_factor: frames for one of a latent, except that the first frame has its own.
    frame_step: the VAE takes `k * frame_step + 1` frames; usually the temporal factor.
    """

    channels: int
    factor: int
    temporal_factor: int = 1
    frame_step: int = 1

    def __str__(self) -> str:
        sizes = f"{self.temporal_factor}x{self.factor}x{self.factor}"
        return f"{sizes} pixels to {counted(self.channels, 'channel')}"

    def latent_frames(self, frames: int) -> int:
        """Return how many frames the latents of so many have."""
        return (frames - 1) // self.temporal_factor + 1

    def check_frames(self, frames: int) -> None:
        """Check that clips of so many frames can be encoded.

        Raises:
            ValueError: they cannot; the message names the nearest that can.
        """
        if over := (frames - 1) % self.frame_step:
            near = _near(frames - over, self.frame_step)
            raise ValueError(
                f"the VAE cannot encode {frames} frames, but {self.frame_step}k + 1; use {near}"
            )

    def check_size(self, size: int) -> None:
        """Check that clips of such a height or width, in pixels, can be encoded.

        Raises:
            ValueError: they cannot; the message names the nearest that can.
        """
        if over := size % self.factor:
            raise ValueError(
                f"{size} is not divisible by vae.factor; use a multiple of {self.factor}, such as "
                f"{_near(size - over, self.factor)}"
            )


def _near(below: int, step: int) -> str:
    return " or ".join(str(each) for each in (below, below + step) if each > 0)


PIXELS = Compression(channels=3, factor=1)
"""Of what is denoised without a VAE."""


class VaeConfig(Config):
    """Options of every VAE."""

    path: ModelPath
    """A local folder, or a hub name such as `stabilityai/sd-vae-ft-mse`."""
    subfolder: str = ""
    """Folder of the VAE inside `path`; a local pipeline's is found without it."""
    tiling: bool = False
    """Encode and decode large frames in overlapping tiles, which needs less memory; latents differ
    a little."""


V = TypeVar("V", bound=VaeConfig, default=VaeConfig, covariant=True)


class Vae(Plugin[V], ABC):
    """Encodes videos to roughly standard normal latents, and decodes them.

    device: to compute on. Weights are loaded on first use. A class is registered under the name of
    the class in its folders' `config.json`, by which it is found.
    """

    Config: ClassVar[type[Config]] = VaeConfig

    def __init__(self, config: V, device: torch.device | str = "cpu") -> None:
        super().__init__(config)
        self.device = device

    @property
    @abstractmethod
    def name(self) -> str:
        """What the VAE is called in output and reports."""

    @property
    @abstractmethod
    def compression(self) -> Compression:
        """How latents relate to pixels; of a local folder known without loading weights."""

    @property
    def folder(self) -> Path | None:
        """The folder of a diffusers model that decodes as this does; None if there is none."""
        return None

    @property
    def decoding(self) -> Mapping[str, Any]:
        """What a pipeline's call is told of decoding, besides what it does by itself."""
        return {}

    @abstractmethod
    def encode(self, video: torch.Tensor) -> torch.Tensor:
        """Return latents `b c t' h' w'`, float32, of videos `b 3 t h w` in [-1, 1].

        The same video always has the same latents, those that a pipeline's denoiser expects.
        video: on any device, of a shape that `compression` allows.
        """

    @abstractmethod
    def decode(self, latents: torch.Tensor) -> torch.Tensor:
        """Return videos `b 3 t h w`, float32, roughly in [-1, 1], of latents `b c t' h' w'`."""

    def weight_bytes(self) -> int | None:
        """Return the bytes that weights take on the device while they are loaded.

        None, as by default, if it is unknown without loading them.
        """
        return None

    def release(self) -> None:
        """Free the memory of weights, which are loaded again when they are needed."""

    def psnr(self, video: torch.Tensor) -> float:
        """Return the mean peak signal-to-noise ratio of reconstructed frames, in dB."""
        import torch

        video = video.to(self.device)
        error = (self.decode(self.encode(video)).clamp(-1, 1) - video).square()
        per_frame = error.mean(dim=(1, 3, 4)).clamp(min=1e-12)
        return (10 * torch.log10(4 / per_frame)).mean().item()
