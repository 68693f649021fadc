"""The device that a run uses, and its precision."""

from __future__ import annotations

import torch

from nasvid.errors import UserError
from nasvid.host.words import counted


def pick_device(name: str) -> torch.device:
    """Return the device that a recipe names; `auto` is the first CUDA device, or else the CPU.

    Raises:
        UserError: this machine has no such device.
    """
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
    except RuntimeError:
        raise UserError(f"training.device: '{name}' is not auto, cpu, cuda or cuda:N") from None
    if device.type not in ("cpu", "cuda"):
        raise UserError(f"training.device: '{name}' is not auto, cpu, cuda or cuda:N")
    if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
        raise UserError(
            f"training.device: '{name}' does not exist; this machine has "
            f"{counted(torch.cuda.device_count(), 'CUDA device')} (see nasvid doctor)"
        )
    return device


def autocast_dtype(precision: str, device: torch.device) -> torch.dtype | None:
    """Return the dtype of mixed precision, or None for fp32.

    `auto` is bf16 only if the hardware supports it: emulated on a CPU, it is several times slower
    than fp32.
    """
    if precision != "auto":
        return {"bf16": torch.bfloat16, "fp16": torch.float16, "fp32": None}[precision]
    if device.type == "cuda":
        fast = torch.cuda.is_bf16_supported(including_emulation=False)
    else:
        fast = torch.cpu._is_amx_tile_supported()
    return torch.bfloat16 if fast else None
