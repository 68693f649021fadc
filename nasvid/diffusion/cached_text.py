"""A text encoder and what it has encoded: prompts, and the captions of clips."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Sequence
from functools import cached_property
from pathlib import Path
from threading import Lock
from typing import Any

import torch

from nasvid.data.embeddings import EmbeddingFile, half, stacked, write_embeddings
from nasvid.errors import Damaged, UserError
from nasvid.host.files import atomic_path
from nasvid.host.terminal import say
from nasvid.text_encoder import Encoded, TextEncoder

KEPT = 1 << 28
"""Most bytes of embeddings that stay in memory, of prompts and of clips' captions each."""
CHUNK = 1 << 28
"""Bytes of embeddings that are made at a time while many are encoded."""


class CachedText:
    """Encodes captions, each only once while its embedding is in memory.

    Prompts, with which an object is called, are encoded as the encoder's pipeline does, to the bit;
    the captions of clips many together, which is many times as fast and differs by rounding.

    file: has the embeddings of prompts between runs; None for none. stores: whether `keep` writes
    it.
    """

    def __init__(
        self,
        encoder: TextEncoder,
        length: int,
        file: Path | None = None,
        *,
        stores: bool = True,
    ) -> None:
        self.encoder, self.length = encoder, length
        self._file, self._stores = file, stores
        self._prompts, self._captions = _Memory(), _Memory()
        self._encoding = Lock()  # the loader's thread encodes, too

    def __call__(
        self, captions: Sequence[str], device: torch.device | str = "cpu"
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Return the context of prompts `b l d`, float32, and its mask `b l`, bool."""
        context, mask = stacked(self._prompts.of(captions, self._prompts_encoded))
        return context.to(device), mask.to(device)

    def of_clips(self, captions: Sequence[str]) -> Encoded:
        """Return the context of clips `b l d`, float32, and its mask `b l`, bool, on the CPU."""
        return stacked(self._captions.of(captions, self._encoded))

    def halves(self, captions: Sequence[str]) -> Iterator[tuple[str, torch.Tensor, torch.Tensor]]:
        """Yield different captions, their real tokens' embeddings `n d` in 16 bits, and masks `l`.

        Only some of them are in memory at a time.
        """
        size = self.length * self.encoder.dim * 4
        for first in range(0, len(captions), together := max(16, CHUNK // size)):
            part = captions[first : first + together]
            for caption, (embedding, mask) in zip(part, self._encoded(part), strict=True):
                yield caption, half(embedding[mask]), mask

    def keep(self, captions: Sequence[str]) -> None:
        """Have prompts in the file, and no others; nothing is done if all of them are there."""
        if self._file is None or self.encoder.weightless:
            return
        wanted = list(dict.fromkeys(captions))
        if self._stores and not all(map(self._read, wanted)):
            self(wanted)
            with atomic_path(self._file) as temporary:
                pairs = zip(wanted, self._prompts.of(wanted, self._prompts_encoded), strict=True)
                rows = ((caption, pair[0][pair[1]], pair[1]) for caption, pair in pairs)
                write_embeddings(temporary, rows, self.made_by)
            self.__dict__.pop("_stored", None)

    @cached_property
    def made_by(self) -> str:
        """What embeddings depend on besides the caption, as a hash."""
        return hashlib.sha256(f"{self.encoder.identity}|{self.length}".encode()).hexdigest()

    @cached_property
    def _stored(self) -> EmbeddingFile | None:
        """The file of prompts; None if there is none, or another encoder's."""
        if self._file is None or not self._file.exists():
            return None
        try:
            found = EmbeddingFile(self._file)
        except Damaged as damaged:
            say(f"{damaged.path} is damaged ({damaged.reason}) and made again")
            return None
        return found if found.made_by == self.made_by else None

    def _prompts_encoded(self, prompts: Sequence[str]) -> list[Encoded]:
        return [self._prompt(prompt) for prompt in prompts]

    def _prompt(self, prompt: str) -> Encoded:
        if (found := self._read(prompt)) is not None:
            return found
        with self._encoding:
            return self._checked(prompt, self.encoder.encode(prompt, self.length))

    def _read(self, prompt: str) -> Encoded | None:
        """Return what the file has of a prompt, if anything."""
        try:
            return self._stored.find(prompt) if self._stored else None
        except Damaged as damaged:
            say(f"{damaged.path} is damaged ({damaged.reason}) and made again")
            self.__dict__["_stored"] = None
            return None

    def _encoded(self, captions: Sequence[str]) -> list[Encoded]:
        """Return what the encoder gives for captions together.

        Raises:
            UserError: it is not what `TextEncoder.encode` promises.
        """
        with self._encoding:
            found: Any = self.encoder.encode_all(list(captions), self.length)
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
        if {embedding.device.type, mask.device.type} != {"cpu"}:
            raise UserError(f"{name}.encode() must return tensors on the CPU")
        if not embedding.isfinite().all():
            raise UserError(f"{name}.encode({caption!r}) is not finite")
        if not mask.any():
            raise UserError(f"{name}.encode({caption!r}) has no real token; mark at least one")
        if embedding[~mask].any():
            raise UserError(f"{name}.encode({caption!r}) must be zero where its mask is False")
        return embedding, mask


class _Memory:
    """The embeddings last used, as many as `KEPT` bytes."""

    def __init__(self) -> None:
        self._known: dict[str, Encoded] = {}
        self._size = 0

    def of(
        self, captions: Sequence[str], encode: Callable[[Sequence[str]], list[Encoded]]
    ) -> list[Encoded]:
        """Return the embedding of each caption; those that are not known are encoded together."""
        missing = [each for each in dict.fromkeys(captions) if each not in self._known]
        new = dict(zip(missing, encode(missing), strict=True)) if missing else {}
        found = {each: new.get(each) or self._known.pop(each) for each in dict.fromkeys(captions)}
        self._known |= found
        self._size += sum(map(_size, new.values()))
        for oldest in list(self._known):
            if self._size <= KEPT:
                break
            self._size -= _size(self._known.pop(oldest))
        return [found[caption] for caption in captions]


def _size(pair: Encoded) -> int:
    return sum(tensor.nbytes for tensor in pair)
