"""Captions encoded many together, each as if it were alone, with as little padding as may be."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
from torch.nn import functional as F

from nasvid.diffusion.carried.tokens import hidden_states, padded
from nasvid.text_encoder import Encoded

TOKENS = 512
"""Tokens encoded together: enough for computing to take longer than reading the weights."""
SHORTEST = 16
"""Tokens at which short captions are encoded."""


def embed_batches(
    tokenizer: Any, model: Any, captions: Sequence[str], length: int, padding: str
) -> list[Encoded]:
    """Return what `embed_tokens` does of each caption, up to rounding, at a multiple of its speed.

    If the model does not see padding, a caption is encoded at the least power of two that its
    tokens fit in. All batches at a length have one size, so that an embedding depends on its
    caption alone.
    """
    found_tokens = padded(tokenizer, captions, length)
    tokens, real = found_tokens["input_ids"], found_tokens["attention_mask"]
    lengths = _lengths(real) if padding == "zeros" else [length] * len(captions)
    found: dict[int, Encoded] = {}
    for size in sorted(set(lengths)):
        chosen = [number for number, each in enumerate(lengths) if each == size]
        for part in batches(chosen, size):
            states, mask = hidden_states(model, tokens[part, :size], real[part, :size], padding)
            whole = (F.pad(states, (0, 0, 0, length - size)), F.pad(mask, (0, length - size)))
            found |= zip(part, zip(*whole, strict=True), strict=True)
    return [found[number] for number in range(len(captions))]


def in_batches(
    captions: Sequence[str], size: int, encode: Callable[[list[str]], list[Encoded]]
) -> list[Encoded]:
    """Return the embeddings of captions, encoded `TOKENS` together. size: tokens of each."""
    found: list[Encoded] = []
    for part in batches(range(len(captions)), size):
        found += encode([captions[number] for number in part])
    return found[: len(captions)]


def batches(numbers: Sequence[int], size: int) -> Iterator[list[int]]:
    """Yield numbers of captions to encode together, always as many: the last are filled up."""
    together = max(1, TOKENS // size)
    for first in range(0, len(numbers), together):
        part = list(numbers[first : first + together])
        yield [*part, *part[-1:] * (together - len(part))]


def _lengths(real: torch.Tensor) -> list[int]:
    """Return for each caption the length that it is encoded at. real: which tokens are, `b l`."""
    length = real.shape[1]
    needed = (real * torch.arange(1, length + 1)).amax(dim=1).tolist()
    return [min(length, max(SHORTEST, 1 << (most - 1).bit_length())) for most in needed]
