"""Text encoders: captions to token embeddings. They are frozen; the denoiser learns to read."""

from __future__ import annotations

from pathlib import Path
from typing import ClassVar

import torch
from pydantic import Field

from nasvid.diffusion.carried.words import embed_words
from nasvid.diffusion.encoders import CLASSES, Source, carried_text
from nasvid.diffusion.from_transformers import FromTransformers, Precision, Usage
from nasvid.host.reading import fingerprint
from nasvid.plugins.config import Config, ModelPath
from nasvid.text_encoder import CarriedText, Encoded, TextEncoder


class HashEncoderConfig(Config):
    """Options of hash."""

    dim: int = Field(default=64, ge=8, le=65536, multiple_of=2)
    """Size of one token's embedding."""


class HashEncoder(TextEncoder[HashEncoderConfig]):
    """Maps each word to a fixed random vector: no weights, no download, small vocabularies.

    Random vectors of distinct words are nearly orthogonal, so the denoiser's first projection can
    learn any embedding of a vocabulary that is not much larger than `dim`.
    """

    weightless = True

    @property
    def dim(self) -> int:
        """Size of one token's embedding."""
        return self.config.dim

    @property
    def carried(self) -> CarriedText:
        """The same words and vectors in a module that needs no weights."""
        module, name = "nasvid.diffusion.carried.word_vectors", "WordVectors"
        return CarriedText(module=module, model=name, config={"dim": self.dim})

    def weight_bytes(self, device: torch.device) -> int:
        """Return 0: there are none."""
        del device
        return 0

    def encode(self, caption: str, length: int) -> Encoded:
        """Return word vectors of unit variance plus a sinusoidal position of half their size."""
        return embed_words(caption, length, self.dim)


class PretrainedEncoderConfig(Config):
    """Options of an encoder of transformers."""

    path: ModelPath
    """Local folder, or hub name such as `google/flan-t5-large`."""
    subfolder: str = ""
    """Folder of the encoder inside it (`text_encoder` in a diffusers pipeline)."""
    tokenizer_subfolder: str = ""
    """Folder of the tokenizer inside it."""
    dim: int | None = Field(default=None, ge=1, le=65536)
    """Size of one token's embedding, the model's hidden size; null: as a local folder says."""
    keep_padding: bool = False
    """Mask nothing and keep the embeddings of padding, as diffusers' pipelines do if their denoiser
    takes no mask (Stable Diffusion and its text-to-video)."""
    precision: Precision = "auto"
    """`auto` is bf16 on a GPU that supports it, otherwise fp32."""


class _PretrainedEncoder(FromTransformers[PretrainedEncoderConfig]):
    """An encoder of the transformers library, from a local folder or a hub name."""

    classes: ClassVar[tuple[tuple[str, str], ...]]
    """`model_type` of a config -> class of transformers."""

    @property
    def dim(self) -> int:
        """Size of one token's embedding."""
        return self.config.dim or self._sources["text_encoder"].known_dim()

    @property
    def identity(self) -> str:
        """A hash of a local folder's content, or the options; and the precision."""
        folder = Path(self.config.path)
        if not folder.is_dir():
            return f"{super().identity} ({self._precision})"
        parts = sorted({self.config.subfolder, self.config.tokenizer_subfolder})
        found = "-".join(fingerprint(folder / part) for part in parts)
        padding = ", padding kept" if self.config.keep_padding else ""
        return f"{type(self).__name__} ({found}{padding}, {self._precision})"

    @property
    def carried(self) -> CarriedText | None:
        """The files of encoder and tokenizer."""
        settings = {"padding": self._usage.padding, "precision": self.config.precision}
        return carried_text(self._sources, **settings)

    @property
    def _wanted(self) -> Precision:
        return self.config.precision

    @property
    def _usage(self) -> Usage:
        return Usage("kept" if self.config.keep_padding else "zeros")

    @property
    def _sources(self) -> dict[str, Source]:
        config = self.config
        inside = (config.subfolder, config.tokenizer_subfolder)
        return {"text_encoder": Source(self.classes, config.path, *inside, config.dim)}


class ClipEncoder(_PretrainedEncoder):
    """CLIP's text model through transformers, from a local folder or a hub name."""

    classes = tuple(each for each in CLASSES if "clip" in each[0])


class T5Encoder(_PretrainedEncoder):
    """The encoder of T5, mT5 or UMT5 through transformers, from a local folder or a hub name."""

    classes = tuple(each for each in CLASSES if "t5" in each[0])
