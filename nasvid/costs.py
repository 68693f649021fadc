"""Costs of an architecture, counted on the `meta` device: nothing is allocated or computed."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode
from torch.utils.flop_counter import FlopCounterMode, sdpa_flop_count

from nasvid.shapes import DenoiserInput, Domain, VideoShape

METRICS = ("params", "macs", "activation_bytes")


@dataclass(frozen=True, slots=True)
class Costs:
    """Costs of n architectures for one clip of one shape; each an int64 array of length n.

    params: parameters (elements).
    macs: multiply-accumulates of one forward pass, batch 1.
    activation_bytes: fp32 bytes that autograd keeps for the backward pass, batch 1, without
        gradient checkpointing.
    """

    params: np.ndarray
    macs: np.ndarray
    activation_bytes: np.ndarray

    def __getitem__(self, metric: str) -> np.ndarray:
        """Return one cost by name.

        Raises:
            ValueError: there is no such cost.
        """
        if metric not in METRICS:
            raise ValueError(f"'{metric}' is not a cost; use one of {', '.join(METRICS)}")
        return getattr(self, metric)


def dummy_input(
    shape: VideoShape, domain: Domain, *, batch: int = 1, device: str | torch.device = "meta"
) -> DenoiserInput:
    """Return an all-zero denoiser input: `b c t h w` and its conditioning."""
    return DenoiserInput(
        sample=torch.zeros(
            batch, domain.channels, shape.frames, shape.height, shape.width, device=device
        ),
        timestep=torch.zeros(batch, dtype=torch.int64, device=device),
        context=torch.zeros(batch, shape.context_len, domain.context_dim, device=device),
        context_mask=torch.ones(batch, shape.context_len, dtype=torch.bool, device=device),
        fps=torch.ones(batch, device=device),
    )


_FUSED = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu


class _FusedAttention(TorchFunctionMode):
    """Runs attention on `meta` like the fused kernels of real devices: no score matrix is kept."""

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        if func is F.scaled_dot_product_attention:
            return _attend(*args, **(kwargs or {}))
        return func(*args, **(kwargs or {}))


def _attend(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attn_mask: torch.Tensor | None = None,
    *rest: Any,
    **options: Any,
) -> torch.Tensor:
    if query.dim() != 4 or options.get("enable_gqa"):
        return F.scaled_dot_product_attention(query, key, value, attn_mask, *rest, **options)
    mask = None if attn_mask is None else attn_mask.to(query.dtype)
    return _FUSED(query, key, value, attn_mask=mask)[0]


def _fused_flops(query: Any, key: Any, value: Any, *_: Any, **__: Any) -> int:
    return sdpa_flop_count(query, key, value)


def count(build: Callable[[], nn.Module], denoise: Callable[[nn.Module], object]) -> Costs:
    """Count one model's costs: `build` creates it, `denoise` runs it once on `meta` inputs."""
    with torch.device("meta"):
        model = build()
    model.train()
    saved: dict[int, int] = {}
    weights = {parameter.untyped_storage()._cdata for parameter in model.parameters()}
    keep: list[torch.Tensor] = []

    def pack(tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        if storage._cdata not in weights:
            saved[storage._cdata] = storage.nbytes()
            keep.append(tensor)
        return tensor

    flops = FlopCounterMode(display=False, custom_mapping={_FUSED: _fused_flops})
    hooks = torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor)
    with _FusedAttention(), flops, hooks:
        denoise(model)
    params = sum(parameter.numel() for parameter in model.parameters())
    return Costs(
        params=np.array([params]),
        macs=np.array([flops.get_total_flops() // 2]),
        activation_bytes=np.array([sum(saved.values())]),
    )
