"""Text without weights as a part of a pipeline."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from diffusers.configuration_utils import ConfigMixin, register_to_config
from diffusers.models.modeling_utils import ModelMixin

from nasvid.diffusion.carried.words import embed_words


class WordVectors(ModelMixin, ConfigMixin):
    """Encodes captions by fixed vectors of their words. dim: size of one word's."""

    config_name = "config.json"

    @register_to_config
    def __init__(self, dim: int) -> None:
        super().__init__()
        self.dim = dim
        self.register_buffer("place", torch.empty(0), persistent=False)  # where pipelines find it

    @classmethod
    def from_pretrained(  # pyright: ignore[reportIncompatibleMethodOverride]
        cls, folder: Any, **options: Any
    ) -> Any:
        """Return the part in a folder, which holds nothing but its config."""
        del options
        config: Any = cls.load_config(folder)
        return cls.from_config(config)

    def save_pretrained(  # pyright: ignore[reportIncompatibleMethodOverride]
        self, folder: Any, **options: Any
    ) -> None:
        """Write the config to a folder."""
        del options
        self.save_config(folder)

    def encode(
        self, captions: Sequence[str], length: int
    ) -> list[tuple[torch.Tensor, torch.Tensor]]:
        """Return each caption's embedding and mask."""
        return [embed_words(caption, length, self.dim) for caption in captions]
