"""The text encoder that a folder holds: CLIP, T5 or UMT5, used as the folder's pipeline does."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Literal

from pydantic import Field

from nasvid.diffusion.batched import in_batches
from nasvid.diffusion.carried.llama_clip import embed_pair
from nasvid.diffusion.encoders import CLASSES, LLAMA, Source, carried_text, tokenizer_of
from nasvid.diffusion.from_transformers import FromTransformers, Padding, Precision, Usage
from nasvid.errors import UserError
from nasvid.host.hub import hub_pipeline, local_folder
from nasvid.host.reading import fingerprint
from nasvid.plugins.config import Config, ModelPath
from nasvid.text_encoder import CarriedText, Encoded

USAGES = {
    "Wan": Usage("zeros", "wan"),
    "LTX": Usage("masked"),
    "HunyuanVideo": Usage("zeros"),
    "CogVideoX": Usage("kept"),
    "TextToVideoSD": Usage("kept"),
    "VideoToVideoSD": Usage("kept"),
}
"""How names of pipelines' classes begin -> how they use the encoder."""
OTHER = Usage("zeros")


class PretrainedConfig(Config):
    """Options of pretrained."""

    path: ModelPath
    """Local folder of a pipeline or of an encoder, or a hub name such as `google/flan-t5-large`."""
    subfolder: str | None = None
    """Folder of the encoder inside it; null: `text_encoder` if it is a local pipeline's."""
    tokenizer_subfolder: str | None = None
    """Folder of the tokenizer inside it; null: `tokenizer` if it is a local pipeline's."""
    dim: int | None = Field(default=None, ge=1, le=65536)
    """Size of one token's embedding; null: as a local folder says."""
    padding: Padding | Literal["auto"] = "auto"
    """What becomes of padding. `zeros`: the encoder does not see it, and its embeddings are zeros
    (Wan). `masked`: the encoder sees it, the denoiser must not (LTX). `kept`: both see it
    (CogVideoX, Stable Diffusion's text-to-video). `auto`: as the pipeline does of whose folder or
    repository the encoder is a subfolder, and `zeros` elsewhere."""
    precision: Precision = "auto"
    """`auto` is bf16 on a GPU that supports it, otherwise fp32."""


class Pretrained(FromTransformers[PretrainedConfig]):
    """CLIP, T5 or UMT5 through transformers, on the device, used as the folder's pipeline does.

    Of HunyuanVideo's pipeline, Llama encodes the tokens, and CLIP the caption as a whole.
    """

    @classmethod
    def propose(cls, folder: Path, hub: str | None = None) -> PretrainedConfig | None:
        """Return the encoder in a pipeline's `text_encoder`, if it is one that is supported.

        Raises:
            UserError: there are two, which must be in a local folder.
        """
        try:
            found = cls(PretrainedConfig(path=str(folder)))
            dim, padding = found.dim, found._usage.padding
        except UserError:
            return None
        if hub is None:
            return found.config
        if found.pooled_dim:
            raise UserError(f"Both text encoders of '{hub}' are needed; download it to a folder")
        return PretrainedConfig(
            path=hub,
            subfolder="text_encoder",
            tokenizer_subfolder="tokenizer",
            dim=dim,
            padding=padding,
        )

    @property
    def dim(self) -> int:
        """Size of one token's embedding.

        Raises:
            UserError: no local folder says it, and the options do not.
        """
        return self.config.dim or self._sources["text_encoder"].known_dim()

    @property
    def pooled_dim(self) -> int:
        """Size of the second encoder's embedding of a whole caption (HunyuanVideo), or 0."""
        second = self._sources.get("text_encoder_2")
        return second.known_dim() if second else 0

    @property
    def identity(self) -> str:
        """A hash of a local folder's content, or the options; and what is done."""
        cleaned = ", cleaned" if self._usage.clean else ""
        how = f"padding {self._usage.padding}, {self._precision}{cleaned}"
        folder = Path(self.config.path)
        if not folder.is_dir():
            return f"{super().identity} ({how})"
        sources = self._sources.values()
        parts = sorted({part for each in sources for part in (each.subfolder, each.tokenizer)})
        found = "-".join(fingerprint(folder / part) for part in parts)
        return f"Pretrained ({found}, {how})"

    @property
    def parts(self) -> Mapping[str, Path]:
        """The encoders and tokenizers of a local pipeline, if used just as the pipeline does.

        Local is what is in the hub's cache, too.
        """
        family, path = self._family, self.config.path
        if family is None or self._usage.padding != USAGES[family].padding:
            return {}
        places = [local_folder(path, each.subfolder) for each in self._sources.values()]
        folder = places[0]
        if folder is None or None in places:
            return {}
        return {
            part: folder / inside
            for name, source in self._sources.items()
            for part, inside in (
                (name, source.subfolder),
                (tokenizer_of(name), source.tokenizer),
            )
        }

    @property
    def carried(self) -> CarriedText | None:
        """The files of encoders and tokenizers."""
        usage, precision = self._usage, self.config.precision
        settings = {"padding": usage.padding, "clean": usage.clean, "precision": precision}
        return carried_text(self._sources, **settings)

    def encode(self, caption: str, length: int) -> Encoded:
        """Return the last hidden states of a caption, as its pipeline computes them."""
        if len(self._sources) > 1:
            (encoded,) = embed_pair([caption], length, *self._load())
            return encoded
        return super().encode(caption, length)

    def encode_all(self, captions: Sequence[str], length: int) -> list[Encoded]:
        """Return those of several, many together."""
        if len(self._sources) > 1:
            pair = self._load()
            return in_batches(captions, length, lambda part: embed_pair(part, length, *pair))
        return super().encode_all(captions, length)

    @property
    def _wanted(self) -> Precision:
        return self.config.precision

    @cached_property
    def _pipeline(self) -> str | None:
        """The class of the local pipeline; None if the folder is none."""
        try:
            index = json.loads((Path(self.config.path) / "model_index.json").read_bytes())
            return str(index["_class_name"])
        except (OSError, ValueError, KeyError, TypeError):
            return None

    @property
    def _family(self) -> str | None:
        """How the name of the pipeline's class begins; None if it is none of those known.

        Raises:
            UserError: the pipeline is on a hub that cannot be reached.
        """
        name = self._pipeline or ""
        if self.config.subfolder and not Path(self.config.path).is_dir():
            name = hub_pipeline(self.config.path) or ""
        return next((family for family in USAGES if name.startswith(family)), None)

    @property
    def _usage(self) -> Usage:
        return self._known_usage

    @cached_property
    def _known_usage(self) -> Usage:
        usage, padding = USAGES.get(self._family or "", OTHER), self.config.padding
        return usage if padding == "auto" else Usage(padding, usage.clean)

    @property
    def _sources(self) -> dict[str, Source]:
        return self._known_sources

    @cached_property
    def _known_sources(self) -> dict[str, Source]:
        """The encoder, and the second one that a pipeline may have, by their parts' names."""
        inside, config = self._pipeline is not None, self.config
        subfolder, tokenizer = config.subfolder, config.tokenizer_subfolder
        if subfolder is None and tokenizer is None and self._family == "HunyuanVideo":
            return {
                "text_encoder": Source(LLAMA, config.path, "text_encoder", "tokenizer", config.dim),
                "text_encoder_2": Source(
                    CLASSES, config.path, "text_encoder_2", "tokenizer_2", None
                ),
            }
        if subfolder is None:
            subfolder = "text_encoder" if inside else ""
        if tokenizer is None:
            tokenizer = "tokenizer" if inside else ""
        return {"text_encoder": Source(CLASSES, config.path, subfolder, tokenizer, config.dim)}
