"""Text without weights: each word is a fixed random vector."""

from __future__ import annotations

import hashlib
import re
from functools import lru_cache

import numpy as np
import torch


def embed_words(caption: str, length: int, dim: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Return word vectors of unit variance plus a sinusoidal position of half their size.

    Returns:
        The embedding `l d`, float32, and its mask `l`, bool.
    """
    words = ["<start>", *re.findall(r"\w+|[^\w\s]", caption.lower())][:length]
    embedding = torch.zeros(length, dim)
    for position, word in enumerate(words):
        embedding[position] = torch.from_numpy(_word_vector(word, dim))
    phase = torch.arange(len(words))[:, None] / 100 ** torch.linspace(0, 1, dim // 2)
    embedding[: len(words)] += torch.cat([phase.sin(), phase.cos()], dim=1) / 2**0.5
    return embedding, torch.arange(length) < len(words)


@lru_cache(maxsize=65536)
def _word_vector(word: str, dim: int) -> np.ndarray:
    seed = int.from_bytes(hashlib.sha256(word.encode()).digest()[:8], "little")
    return np.random.default_rng(seed).standard_normal(dim, dtype=np.float32)
