"""Costs of an architecture, counted on the `meta` device: nothing is allocated or computed."""

from __future__ import annotations

import os
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode
from torch.utils.flop_counter import FlopCounterMode, sdpa_flop_count

from nasvid.errors import UserError
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

    def __post_init__(self) -> None:
        for metric in METRICS:
            found: Any = getattr(self, metric)
            if not isinstance(found, np.ndarray) or found.ndim != 1 or found.dtype.kind not in "iu":
                raise ValueError(f"Costs.{metric} is no array of n integers: {found!r:.80}")

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


class NoValuesError(UserError):
    """A model's code needs tensors' values where there are none; the message names the line."""


@contextmanager
def without_values(fix: str, *, own: type[ValueError] = UserError) -> Iterator[None]:
    """Run a model's code on tensors that may have shapes but no values.

    fix: end of the message: what the code's author should do if it fails. own: errors that the code
    raises on purpose, which pass unchanged.

    Raises:
        NoValuesError: it fails; the message gives the line and torch's reason.
    """
    try:
        yield
    except own:
        raise
    except Exception as error:
        reason = next(iter(str(error).splitlines()), "").partition(". ")[0].rstrip(".")
        raise NoValuesError(
            f"{_line(error)} fails on the `meta` device, where tensors have shapes but no values "
            f"({type(error).__name__}: {reason}); {fix}"
        ) from error


def _line(error: Exception) -> str:
    """Return the last line of the model's own code in the traceback, with file and number."""
    torch_, nasvid = (f"{Path(file).parent}{os.sep}" for file in (torch.__file__, __file__))
    frames = traceback.extract_tb(error.__traceback__)
    outside = [frame for frame in frames if not frame.filename.startswith(torch_)]
    own = [frame for frame in outside if not frame.filename.startswith(nasvid)]
    last = (own or outside)[-1]
    return f"{last.filename}:{last.lineno}: `{last.line}`"


def built_on_meta(build: Callable[[], nn.Module]) -> nn.Module:
    """Return the model that `build` creates, on the `meta` device.

    Raises:
        NoValuesError: it reads the values of a tensor.
    """
    fix = "compute what build() needs with Python's numbers"
    with without_values(fix, own=ValueError), torch.device("meta"):
        built: Any = build()
    if not isinstance(built, nn.Module):
        raise UserError(f"build() must return a torch.nn.Module, not {built!r:.80}")
    return built


@contextmanager
def run_on_meta() -> Iterator[None]:
    """Run a model on the `meta` device inside the context.

    Raises:
        NoValuesError: it reads the values of a tensor.
    """
    fix = (
        "rewrite the line so that it needs no values, or give the space formulas by "
        "overriding `costs` (docs/spaces.md, Costs)"
    )
    with without_values(fix), _FusedAttention():
        yield


class Saved:
    """Counts the bytes that autograd keeps for the backward pass, besides a model's weights."""

    def __init__(self, model: nn.Module) -> None:
        self._weights = {each.untyped_storage()._cdata for each in model.parameters()}
        self._storages: dict[int, torch.UntypedStorage] = {}

    @property
    def bytes(self) -> int:
        """The bytes counted so far."""
        return sum(storage.nbytes() for storage in self._storages.values())

    def watched(self) -> torch.autograd.graph.saved_tensors_hooks:
        """Return a context, in which is counted what is kept."""
        return torch.autograd.graph.saved_tensors_hooks(self._keep, lambda tensor: tensor)

    def _keep(self, tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        if storage._cdata not in self._weights:
            self._storages[storage._cdata] = storage
        return tensor


def count(
    build: Callable[[], nn.Module],
    denoise: Callable[[nn.Module], object],
    *,
    device: str = "meta",
) -> Costs:
    """Count one model's costs: `build` creates it, `denoise` runs it once.

    device: of the inputs; on any other than `meta`, the model is really run.

    Raises:
        NoValuesError: the model cannot be built or run without values.
    """
    on_meta = device == "meta"
    model = built_on_meta(build) if on_meta else build().to(device)
    model.train()
    saved = Saved(model)
    flops = FlopCounterMode(display=False, custom_mapping={_FUSED: _fused_flops})
    with run_on_meta() if on_meta else nullcontext(), flops, saved.watched():
        denoise(model)
    params = sum(parameter.numel() for parameter in model.parameters())
    return Costs(
        params=np.array([params]),
        macs=np.array([flops.get_total_flops() // 2]),
        activation_bytes=np.array([saved.bytes]),
    )
