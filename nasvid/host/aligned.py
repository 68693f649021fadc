"""Weights as safetensors whose tensors are aligned in the file.

diffusers memory-maps a file and uses the weights in place. CPU kernels sum in a different order if
a matrix is not aligned, so the loaded model's results would differ from the saved one's in the last
bits. The safetensors library packs tensors after a header of any length; here the header is padded,
and tensors whose size would misalign the others come last.
"""

from __future__ import annotations

import json
import struct
from collections.abc import Mapping
from pathlib import Path

import torch
from diffusers.models.modeling_utils import ModelMixin

ALIGNMENT = 64
"""Bytes, as in torch's own allocations. From 16 up, no difference was seen."""
WEIGHTS = "diffusion_pytorch_model.safetensors"
DTYPES = {
    torch.float64: "F64",
    torch.float32: "F32",
    torch.float16: "F16",
    torch.bfloat16: "BF16",
    torch.int64: "I64",
    torch.int32: "I32",
    torch.int16: "I16",
    torch.int8: "I8",
    torch.uint8: "U8",
    torch.bool: "BOOL",
}
"""The file format's names for dtypes."""


def save_aligned(model: ModelMixin, folder: Path) -> None:
    """Write a diffusers model as its `save_pretrained` does, in one file, aligned."""
    model.save_config(str(folder))
    write_aligned(model.state_dict(), folder / WEIGHTS)


def write_aligned(tensors: Mapping[str, torch.Tensor], path: Path) -> None:
    """Write tensors as one safetensors file in which they begin at multiples of 64 bytes.

    Of the tensors whose sizes are not such multiples, only the first one does; those are small:
    biases and norms.
    """
    order = sorted(tensors, key=lambda name: (tensors[name].nbytes % ALIGNMENT != 0, name))
    header: dict[str, object] = {"__metadata__": {"format": "pt"}}
    start = 0
    for name in order:
        stop = start + tensors[name].nbytes
        header[name] = {
            "dtype": DTYPES[tensors[name].dtype],
            "shape": list(tensors[name].shape),
            "data_offsets": [start, stop],
        }
        start = stop
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-(8 + len(text)) % ALIGNMENT)
    with path.open("wb") as file:
        file.write(struct.pack("<Q", len(text)))
        file.write(text)
        for name in order:
            file.write(_bytes(tensors[name]))


def _bytes(tensor: torch.Tensor) -> bytes:
    flat = tensor.detach().cpu().contiguous().flatten()
    return flat.view(torch.uint8).numpy().tobytes()
