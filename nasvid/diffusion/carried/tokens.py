"""Text by a model of transformers: captions to token embeddings."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch

TOGETHER = 16
"""Captions encoded at a time on a GPU, always as many, so that none depends on how many it is
among; a processor, which gains nothing from more, encodes one."""
DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}

Embedded = list[tuple[torch.Tensor, torch.Tensor]]
"""Embeddings `l d`, float32, and masks `l`, bool, on the CPU."""


def precision_on(device: torch.device, wanted: str) -> str:
    """Return a precision; `auto` is bf16 on a GPU that supports it, otherwise fp32."""
    if wanted != "auto":
        return wanted
    is_half = device.type == "cuda" and torch.cuda.is_bf16_supported()
    return "bf16" if is_half else "fp32"


def together_on(device: torch.device) -> int:
    """Return how many captions are encoded at a time."""
    return 1 if device.type == "cpu" else TOGETHER


def in_batches(
    captions: Sequence[str], device: torch.device, encode: Callable[[list[str]], Embedded]
) -> Embedded:
    """Encode captions, on a GPU as many together as `TOGETHER`."""
    together = together_on(device)
    found: Embedded = []
    for first in range(0, len(captions), together):
        part = list(captions[first : first + together])
        filled = [*part, *[""] * (together - len(part))]
        found += encode(filled)[: len(part)]
    return found


@torch.no_grad()
def embed_tokens(
    tokenizer: Any, model: Any, captions: Sequence[str], length: int, padding: str
) -> Embedded:
    """Return the last hidden states of captions, cut or padded to `length` tokens.

    padding: `zeros`, which the model does not see; `masked`, which it sees; `kept`, which whoever
    reads the embeddings sees, too.
    """
    tokens = padded(tokenizer, captions, length).to(model.device)
    real = tokens["attention_mask"]
    attended = {"attention_mask": real} if padding == "zeros" else {}
    hidden = model(input_ids=tokens["input_ids"], **attended).last_hidden_state.float().cpu()
    mask = real.bool().cpu()
    if padding == "kept":
        mask = torch.ones_like(mask)
    return list(zip(hidden * mask[..., None], mask, strict=True))


def padded(tokenizer: Any, captions: Sequence[str], length: int) -> Any:
    """Return the token IDs and the attention mask of captions, cut or padded to `length`."""
    return tokenizer(
        list(captions),
        max_length=length,
        truncation=True,
        padding="max_length",
        return_attention_mask=True,
        return_tensors="pt",
    )


def cleaned(captions: Sequence[str], how: str) -> list[str]:
    """Return captions as a pipeline cleans them first: `wan`, or as they are."""
    if how != "wan":
        return list(captions)
    from diffusers.pipelines.wan.pipeline_wan import prompt_clean

    return [prompt_clean(caption) for caption in captions]
