"""Text by a model of transformers: captions to token embeddings."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}

Embedded = list[tuple[torch.Tensor, torch.Tensor]]
"""Embeddings `l d`, float32, and masks `l`, bool, on the CPU."""


def precision_on(device: torch.device, wanted: str) -> str:
    """Return a precision; `auto` is bf16 on a GPU that supports it, otherwise fp32."""
    if wanted != "auto":
        return wanted
    is_half = device.type == "cuda" and torch.cuda.is_bf16_supported()
    return "bf16" if is_half else "fp32"


def embed_tokens(
    tokenizer: Any, model: Any, captions: Sequence[str], length: int, padding: str
) -> Embedded:
    """Return the last hidden states of captions, cut or padded to `length` tokens.

    padding: `zeros`, which the model does not see; `masked`, which it sees; `kept`, which whoever
    reads the embeddings sees, too.
    """
    tokens = padded(tokenizer, captions, length)
    states, mask = hidden_states(model, tokens["input_ids"], tokens["attention_mask"], padding)
    return list(zip(states, mask, strict=True))


@torch.no_grad()
def hidden_states(
    model: Any, tokens: torch.Tensor, real: torch.Tensor, padding: str
) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the last hidden states of tokens, `b l d`, float32, and mask `b l`, on the CPU."""
    tokens, real = tokens.to(model.device), real.to(model.device)
    attended = {"attention_mask": real} if padding == "zeros" else {}
    hidden = model(input_ids=tokens, **attended).last_hidden_state.cpu().float()
    mask = real.bool().cpu()
    if padding == "kept":
        mask = torch.ones_like(mask)
    return hidden * mask[..., None], mask


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
