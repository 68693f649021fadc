"""TextEncoder: captions to token embeddings. It is frozen; only the denoiser is trained."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import TYPE_CHECKING

from nasvid.plugins.plugin import C, Plugin
from nasvid.plugins.section import PluginSection

if TYPE_CHECKING:
    import torch

Encoded = tuple["torch.Tensor", "torch.Tensor"]
"""Embeddings `l d`, float32, and mask `l`, bool, True where a token is real."""


class TextEncoder(Plugin[C], ABC):
    """Turns a caption into token embeddings.

    A denoiser is conditioned on the sequence; the empty caption is the unconditional embedding
    of classifier-free guidance and must have at least one real token.
    """

    @property
    @abstractmethod
    def dim(self) -> int:
        """Size of one token's embedding, known without loading weights."""

    @abstractmethod
    def encode(self, caption: str, length: int) -> Encoded:
        """Return a caption's embedding, truncated or zero-padded to `length` tokens."""


class TextSection(PluginSection):
    """A text encoder and its config."""

    kind = "text_encoders"

    def make(self) -> TextEncoder:  # pyright: ignore[reportIncompatibleMethodOverride]
        """Create the encoder; it loads weights on first use."""
        return super().make()
