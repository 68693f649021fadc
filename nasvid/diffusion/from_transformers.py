"""Text encoders of transformers: loaded on the device in its precision, freed when asked to."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import torch

from nasvid.diffusion.batched import embed_batches
from nasvid.diffusion.carried.tokens import DTYPES, cleaned, embed_tokens, precision_on
from nasvid.diffusion.encoders import Source
from nasvid.errors import UserError
from nasvid.plugins.needs import Need
from nasvid.plugins.plugin import C
from nasvid.text_encoder import Encoded, TextEncoder

Padding = Literal["zeros", "masked", "kept"]
Precision = Literal["auto", "fp32", "bf16", "fp16"]


@dataclass(frozen=True, slots=True)
class Usage:
    """How a pipeline uses its text encoder. clean: how captions are cleaned first."""

    padding: Padding
    clean: str = ""


class FromTransformers(TextEncoder[C], ABC):
    """A text model of transformers, from a local folder or a hub name."""

    needs: ClassVar = (Need("transformers", "pip install 'nasvid[text]'"),)

    def __init__(self, config: C) -> None:
        super().__init__(config)
        self._device = torch.device("cpu")
        self._loaded: list[tuple[Any, Any]] = []

    @property
    @abstractmethod
    def _sources(self) -> Mapping[str, Source]:
        """The encoder, and the second one that a pipeline may have, by their parts' names."""

    @property
    @abstractmethod
    def _usage(self) -> Usage:
        """How captions and padding are treated."""

    @property
    @abstractmethod
    def _wanted(self) -> Precision:
        """The precision that the options ask for."""

    def place(self, device: torch.device) -> None:
        """Compute on a device."""
        self._device = device
        self.release()

    def release(self) -> None:
        """Free the memory of the weights."""
        self._loaded = []

    def weight_bytes(self, device: torch.device) -> int | None:
        """Return the bytes of a local folder's weights, in the precision used on the device.

        A GPU that this machine lacks is assumed to have bf16.
        """
        precision = self._wanted
        if device.type == "cuda" and precision == "auto" and not torch.cuda.is_available():
            precision = "bf16"
        dtype = DTYPES[precision_on(device, precision)]
        sizes = [source.weight_bytes(dtype) for source in self._sources.values()]
        known = [size for size in sizes if size is not None]
        return sum(known) if len(known) == len(sizes) else None

    def check_ready(self) -> None:
        """Check a local folder without loading it."""
        for source in self._sources.values():
            source.check()

    def check_hub(self) -> None:
        """Check a model on a hub by its config, which is fetched."""
        for source in self._sources.values():
            source.check_hub()

    def encode(self, caption: str, length: int) -> Encoded:
        """Return the last hidden states of a caption, as its pipeline computes them."""
        tokenizer, model = self._ready(length)
        texts, usage = cleaned([caption], self._usage.clean), self._usage
        (encoded,) = embed_tokens(tokenizer, model, texts, length, usage.padding)
        return encoded

    def encode_all(self, captions: Sequence[str], length: int) -> list[Encoded]:
        """Return those of several, many together."""
        tokenizer, model = self._ready(length)
        texts, usage = cleaned(captions, self._usage.clean), self._usage
        return embed_batches(tokenizer, model, texts, length, usage.padding)

    def _ready(self, length: int) -> tuple[Any, Any]:
        """Return tokenizer and model, loaded.

        Raises:
            UserError: they cannot be loaded, or take fewer tokens.
        """
        (tokenizer, model), *_ = self._load()
        limit = getattr(model.config, "max_position_embeddings", length)
        if length > limit:
            path = next(iter(self._sources.values())).path
            raise UserError(
                f"Text encoder '{path}' takes {limit} tokens; set data.context_len to {limit} or "
                f"less, not {length}"
            )
        return tokenizer, model

    def _load(self) -> list[tuple[Any, Any]]:
        if not self._loaded:
            dtype = DTYPES[self._precision]
            self._loaded = [each.load(dtype, self._device) for each in self._sources.values()]
        return self._loaded

    @property
    def _precision(self) -> str:
        return precision_on(self._device, self._wanted)
