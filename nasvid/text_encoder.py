"""TextEncoder: captions to token embeddings. It is frozen; only the denoiser is trained."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from nasvid.plugins.plugin import C, Plugin
from nasvid.plugins.section import PluginSection

if TYPE_CHECKING:
    import torch

Encoded = tuple["torch.Tensor", "torch.Tensor"]
"""Embeddings `l d`, float32, and mask `l`, bool, True where a token is real."""


@dataclass(frozen=True, slots=True, kw_only=True)
class CarriedText:
    """What encodes captions in an exported folder, where nasvid may not be installed.

    Either code that is carried along: `module`, and the class `model` in it, whose `config.json` is
    `config`. Or models and tokenizers of transformers: `stock` is each part's name -> its class,
    and `folders` those whose files are carried along. settings: of the pipeline, which say how they
    are used.
    """

    module: str = ""
    model: str = ""
    config: Mapping[str, Any] = field(default_factory=dict)
    stock: Mapping[str, str] = field(default_factory=dict)
    folders: Mapping[str, Path] = field(default_factory=dict)
    settings: Mapping[str, Any] = field(default_factory=dict)


class TextEncoder(Plugin[C], ABC):
    """Turns a caption into token embeddings.

    A denoiser is conditioned on the sequence; the empty caption is the unconditional embedding
    of classifier-free guidance and must have at least one real token.
    """

    weightless: ClassVar[bool] = False
    """Whether a caption is encoded as fast as its embedding is read: by the processes that load
    clips, which have no device, and without being kept."""

    @classmethod
    def propose(cls, folder: Path, hub: str | None = None) -> C | None:
        """Return options for the text encoder of a pipeline; None if this plug-in cannot be it.

        `nasvid init` asks every text encoder.

        folder: of the pipeline. hub: its name on a hub, which the options then name; `folder` has
        only its configs. None if `folder` has all of it.
        """
        del folder, hub
        return None

    @property
    @abstractmethod
    def dim(self) -> int:
        """Size of one token's embedding, known without loading weights."""

    @property
    def pooled_dim(self) -> int:
        """Size of an embedding of the whole caption; 0 if there is none.

        If there is one, it is the last of the `length` that `encode` returns, padded with zeros.
        """
        return 0

    @property
    def parts(self) -> Mapping[str, Path]:
        """The parts of a local pipeline that encode captions, if that is all the encoder is.

        Name of the part -> its folder; none if the pipeline would encode any caption otherwise.
        """
        return {}

    @property
    def carried(self) -> CarriedText | None:
        """What encodes captions alike without nasvid; None if nothing does."""
        return None

    @abstractmethod
    def encode(self, caption: str, length: int) -> Encoded:
        """Return a caption's embedding, truncated or zero-padded to `length` tokens.

        It is for prompts; those of clips are encoded by `encode_all`.
        """

    def encode_all(self, captions: Sequence[str], length: int) -> list[Encoded]:
        """Return the embeddings of captions; for encoders that are faster with several at a time.

        Each is what `encode` returns, up to rounding, and does not depend on the others.
        """
        return [self.encode(caption, length) for caption in captions]

    def place(self, device: torch.device) -> None:
        """Compute on a device, which is known before anything is encoded; results stay on the CPU.

        If they depend on it, so must `identity`.
        """

    def check_hub(self) -> None:
        """Check before a run what is not on this machine, fetching no more than a few kilobytes.

        Raises:
            UserError: it cannot be had or does not match the options.
        """

    def weight_bytes(self, device: torch.device) -> int | None:
        """Return the bytes that weights take on a device, if encoding is to be done on it.

        0 if they lie elsewhere; None, as by default, if it is unknown without loading them.
        """
        del device
        return None

    def release(self) -> None:
        """Free the memory of weights, which the next call of `encode` loads again."""


class TextSection(PluginSection):
    """A text encoder and its config."""

    kind = "text_encoders"

    def make(self) -> TextEncoder:  # pyright: ignore[reportIncompatibleMethodOverride]
        """Create the encoder; it loads weights on first use."""
        return super().make()
