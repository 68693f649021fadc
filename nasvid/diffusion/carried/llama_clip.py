"""Text as HunyuanVideo's pipeline encodes it: tokens by Llama in a template, the whole by CLIP."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch.nn import functional as F

from nasvid.diffusion.carried.tokens import Embedded, padded

WHOLE = 77
"""Tokens of which CLIP's pooled embedding is made."""
SKIPPED = 2
"""Last layers of Llama that are not used."""


@torch.no_grad()
def embed_pair(
    captions: Sequence[str], length: int, llama: tuple[Any, Any], clip: tuple[Any, Any]
) -> Embedded:
    """Return embeddings of `length - 1` tokens and, as the last, the pooled one padded with zeros.

    llama, clip: each a tokenizer and a model.
    """
    from diffusers.pipelines.hunyuan_video.pipeline_hunyuan_video import DEFAULT_PROMPT_TEMPLATE

    before: int = DEFAULT_PROMPT_TEMPLATE["crop_start"]
    prompts = [DEFAULT_PROMPT_TEMPLATE["template"].format(caption) for caption in captions]
    tokenizer, model = llama
    tokens = padded(tokenizer, prompts, length - 1 + before).to(model.device)
    states = model(**tokens, output_hidden_states=True).hidden_states[-(SKIPPED + 1)]
    mask = tokens["attention_mask"][:, before:].bool().cpu()
    hidden = states[:, before:].float().cpu() * mask[..., None]
    tokenizer, model = clip
    tokens = padded(tokenizer, captions, WHOLE).to(model.device)
    pooled = model(tokens["input_ids"]).pooler_output.float().cpu()
    pooled = F.pad(pooled, (0, hidden.shape[2] - pooled.shape[1]))
    rows = torch.cat([hidden, pooled[:, None]], dim=1)
    return list(zip(rows, F.pad(mask, (0, 1), value=True), strict=True))
