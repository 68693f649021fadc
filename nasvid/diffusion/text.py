"""Text encoders: captions to token embeddings. They are frozen; the denoiser learns to read."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar

import torch
from pydantic import Field

from nasvid.diffusion.carried.tokens import embed_tokens
from nasvid.diffusion.carried.words import embed_words
from nasvid.diffusion.encoders import CLASSES, Source, carried_text, load_encoder
from nasvid.errors import Damaged, UserError
from nasvid.host.aligned import read_tensors, size_of, write_aligned
from nasvid.host.files import atomic_path
from nasvid.host.reading import fingerprint
from nasvid.host.terminal import say
from nasvid.plugins.config import Config, ModelPath
from nasvid.plugins.needs import Need
from nasvid.text_encoder import CarriedText, Encoded, TextEncoder

KEPT = 4096
"""Most captions whose embeddings stay in memory."""


class HashEncoderConfig(Config):
    """Options of hash."""

    dim: int = Field(default=64, ge=8, le=65536, multiple_of=2)
    """Size of one token's embedding."""


class HashEncoder(TextEncoder[HashEncoderConfig]):
    """Maps each word to a fixed random vector: no weights, no download, small vocabularies.

    Random vectors of distinct words are nearly orthogonal, so the denoiser's first projection can
    learn any embedding of a vocabulary that is not much larger than `dim`.
    """

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


class _PretrainedEncoder(TextEncoder[PretrainedEncoderConfig]):
    """An encoder of the transformers library, from a local folder or a hub name."""

    needs: ClassVar = (Need("transformers", "pip install 'nasvid[text]'"),)
    classes: ClassVar[tuple[tuple[str, str], ...]]
    """`model_type` of a config -> class of transformers."""

    @property
    def dim(self) -> int:
        """Size of one token's embedding."""
        return self.config.dim or self._source.known_dim()

    @property
    def identity(self) -> str:
        """A local folder's name and a hash of its content, or the hub name."""
        folder = Path(self.config.path)
        if not folder.is_dir():
            return super().identity
        parts = sorted({self.config.subfolder, self.config.tokenizer_subfolder})
        found = "-".join(fingerprint(folder / part) for part in parts)
        padding = ", padding kept" if self.config.keep_padding else ""
        return f"{type(self).__name__} '{folder.name}' ({found}{padding})"

    @property
    def carried(self) -> CarriedText | None:
        """The files of encoder and tokenizer."""
        sources = {"text_encoder": self._source}
        return carried_text(sources, padding=self._padding, precision="fp32")

    def encode(self, caption: str, length: int) -> Encoded:
        """Return the last hidden states of a caption."""
        tokenizer, model = load_encoder(self._source)
        (encoded,) = embed_tokens(tokenizer, model, [caption], length, self._padding)
        return encoded

    def weight_bytes(self, device: torch.device) -> int | None:
        """Return the bytes of a local folder's weights, which lie in the host's memory in fp32."""
        return self._source.weight_bytes() if device.type == "cpu" else 0

    def check_ready(self) -> None:
        """Check a local folder without loading it."""
        self._source.check()

    def check_hub(self) -> None:
        """Check a model on a hub by its config, which is fetched."""
        self._source.check_hub()

    @property
    def _padding(self) -> str:
        return "kept" if self.config.keep_padding else "zeros"

    @property
    def _source(self) -> Source:
        config = self.config
        return Source(
            self.classes, config.path, config.subfolder, config.tokenizer_subfolder, config.dim
        )


class ClipEncoder(_PretrainedEncoder):
    """CLIP's text model through transformers, from a local folder or a hub name."""

    classes = tuple(each for each in CLASSES if "clip" in each[0])


class T5Encoder(_PretrainedEncoder):
    """The encoder of T5, mT5 or UMT5 through transformers, from a local folder or a hub name."""

    classes = tuple(each for each in CLASSES if "t5" in each[0])


class CachedText:
    """Encodes each caption once: results are kept in memory, and on disk between runs.

    A cached embedding equals the encoder's, bit for bit. `folder` None keeps nothing on disk;
    `stores` False only reads what is on disk.
    """

    def __init__(
        self, encoder: TextEncoder, length: int, folder: Path | None, *, stores: bool = True
    ) -> None:
        self.encoder, self.length = encoder, length
        self._folder, self._stores = folder, stores
        self._known: dict[str, Encoded] = {}

    def __call__(
        self, captions: Sequence[str], device: torch.device | str = "cpu"
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Return context `b l d`, float32, and its mask `b l`, bool."""
        found = self._found(dict.fromkeys(captions))
        context = torch.stack([found[caption][0] for caption in captions])
        mask = torch.stack([found[caption][1] for caption in captions])
        return context.to(device), mask.to(device)

    def _found(self, captions: Iterable[str]) -> dict[str, Encoded]:
        """Return the embedding of each caption; those that are nowhere are encoded together."""
        found = {caption: self._known.pop(caption, None) for caption in captions}
        found = {caption: pair or self._read(caption) for caption, pair in found.items()}
        missing = [caption for caption, pair in found.items() if pair is None]
        new = dict(zip(missing, self._encoded(missing), strict=True))
        for caption, pair in new.items():
            self._store(caption, pair)
        whole = {caption: pair or new[caption] for caption, pair in found.items()}
        self._known |= whole
        for oldest in list(self._known)[: len(self._known) - KEPT]:
            del self._known[oldest]
        return whole

    @cached_property
    def _identity(self) -> str:
        return self.encoder.identity

    def _encoded(self, captions: list[str]) -> list[Encoded]:
        """Return what the encoder gives for captions.

        Raises:
            UserError: it is not what `TextEncoder.encode` promises.
        """
        if not captions:
            return []
        found: Any = self.encoder.encode_all(captions, self.length)
        if not isinstance(found, list) or len(found) != len(captions):
            name = type(self.encoder).__name__
            raise UserError(f"{name}.encode_all() must return a list with a pair for each caption")
        return [self._checked(each, pair) for each, pair in zip(captions, found, strict=True)]

    def _checked(self, caption: str, found: Any) -> Encoded:
        name, size = type(self.encoder).__name__, (self.length, self.encoder.dim)
        if not isinstance(found, tuple) or not all(isinstance(t, torch.Tensor) for t in found):
            raise UserError(f"{name}.encode() must return two tensors, not {type(found).__name__}")
        embedding, mask = found
        given = [(tuple(tensor.shape), tensor.dtype) for tensor in found]
        if given != [(size, torch.float32), (size[:1], torch.bool)]:
            shown = " and ".join(f"{shape} of {dtype}" for shape, dtype in given)
            raise UserError(
                f"{name}.encode() must return an embedding {size} of torch.float32 and a mask "
                f"{size[:1]} of torch.bool, not {shown}"
            )
        if not embedding.isfinite().all():
            raise UserError(f"{name}.encode({caption!r}) is not finite")
        if not mask.any():
            raise UserError(f"{name}.encode({caption!r}) has no real token; mark at least one")
        return embedding, mask

    def _path(self, caption: str) -> Path | None:
        if self._folder is None:
            return None
        key = hashlib.sha256(f"{self._identity}|{self.length}|{caption}".encode())
        return self._folder / f"{key.hexdigest()}.safetensors"

    def _read(self, caption: str) -> Encoded | None:
        """Return what is on disk for a caption, or None."""
        path = self._path(caption)
        if path is None:
            return None
        try:
            stored = read_tensors(path, ("embedding", "mask"))
        except FileNotFoundError:
            return None
        except Damaged as damaged:
            say(f"text: {path} is damaged ({damaged.reason}) and made again")
            return None
        return stored["embedding"], stored["mask"]

    def _store(self, caption: str, pair: Encoded) -> None:
        path = self._path(caption)
        if path is None or not self._stores:
            return
        content = {"embedding": pair[0], "mask": pair[1]}
        with atomic_path(path, needed=size_of(content), durable=False) as temporary:
            write_aligned(content, temporary)  # not awaited: there are as many as captions
