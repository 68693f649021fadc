"""The values that describe a video to a model: its shape, its domain, a denoiser's inputs."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch


@dataclass(frozen=True, slots=True, kw_only=True)
class VideoShape:
    """The size of one denoised clip and of the text that conditions it.

    frames, height, width: of the model's input, in frames and pixels (or latent pixels).
    context_len: text tokens.
    """

    frames: int
    height: int
    width: int
    context_len: int

    @classmethod
    def square(cls, resolution: int, *, frames: int, context_len: int) -> VideoShape:
        """Return the shape of a clip of `resolution` x `resolution` pixels."""
        return cls(frames=frames, height=resolution, width=resolution, context_len=context_len)

    def __str__(self) -> str:
        return f"{self.frames}x{self.height}x{self.width}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Domain:
    """What a model denoises and what it is conditioned on: fixed by data and text, not searched.

    channels: of the video (3 for RGB pixels, more for latents).
    context_dim: size of one text token's embedding.
    """

    channels: int = 3
    context_dim: int = 64


@dataclass(frozen=True, slots=True)
class DenoiserInput:
    """A denoiser's input batch.

    sample: `b c t h w`, float; the noisy video.
    timestep: `b`; the scheduler's timestep, int64, or float32 for flow.
    context: `b l d`, float; text token embeddings.
    context_mask: `b l`, bool; True where a token is real.
    fps: `b`, float32; frames per second of the clip.
    """

    sample: torch.Tensor
    timestep: torch.Tensor
    context: torch.Tensor
    context_mask: torch.Tensor
    fps: torch.Tensor

    def part(self, clips: slice) -> DenoiserInput:
        """Return some of the clips."""
        return DenoiserInput(
            self.sample[clips],
            self.timestep[clips],
            self.context[clips],
            self.context_mask[clips],
            self.fps[clips],
        )
