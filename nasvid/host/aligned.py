"""Weights as safetensors whose tensors are aligned in the file.

diffusers memory-maps a file and uses the weights in place. CPU kernels sum in a different order if
a matrix is not aligned, so the loaded model's results would differ from the saved one's in the last
bits. The safetensors library packs tensors after a header of any length; here the header is padded,
and tensors whose size would misalign the others come last.
"""

from __future__ import annotations

import json
import struct
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from safetensors import SafetensorError, safe_open

from nasvid.host.reading import damage

if TYPE_CHECKING:
    from diffusers.models.modeling_utils import ModelMixin

ALIGNMENT = 64
"""Bytes, as in torch's own allocations. From 16 up, no difference was seen."""
BLOCK = 1 << 24
"""Bytes that are written at a time."""
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


def size_of(tensors: Mapping[str, torch.Tensor]) -> int:
    """Return the approximate size in bytes of a file of these tensors."""
    return sum(tensor.nbytes + 128 for tensor in tensors.values())


def save_aligned(model: ModelMixin, folder: Path) -> None:
    """Write a diffusers model as its `save_pretrained` does, in one file, aligned."""
    model.save_config(str(folder))
    write_aligned(model.state_dict(), folder / WEIGHTS)


def write_aligned(tensors: Mapping[str, torch.Tensor], path: Path) -> None:
    """Write tensors as one safetensors file in which they begin at multiples of 64 bytes.

    The file has the umask's mode; the library's own writer lets only its owner read it.
    """
    with path.open("wb") as file:
        for block in aligned(tensors):
            file.write(block)


def aligned(tensors: Mapping[str, torch.Tensor]) -> Iterator[bytes | memoryview]:
    """Yield the content of such a file, in blocks of at most 16 MiB.

    Of the tensors whose sizes are not multiples of 64 bytes, only the first one begins at one;
    those are small: biases and norms.
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
    yield struct.pack("<Q", len(text)) + text
    for name in order:
        content = _bytes(tensors[name])
        for start in range(0, len(content), BLOCK):
            yield content[start : start + BLOCK]


def _bytes(tensor: torch.Tensor) -> memoryview:
    flat = tensor.detach().cpu().contiguous().flatten()
    return flat.view(torch.uint8).numpy().data


@contextmanager
def opened_tensors(path: Path) -> Iterator[Any]:
    """Open a safetensors file while the context lasts; only requested tensors are read.

    Raises:
        Damaged: it is no such file, or lacks a tensor that is asked for.
    """
    with damage(path, SafetensorError):
        path.open("rb").close()  # the library reports a file that may not be read as damaged
        with safe_open(path, "pt") as file:
            yield file


def read_tensors(path: Path, names: Sequence[str] = ()) -> dict[str, torch.Tensor]:
    """Return the tensors of a safetensors file, all or those named.

    Raises:
        Damaged: it is no such file, or lacks one of them.
    """
    with opened_tensors(path) as file:
        return {name: file.get_tensor(name) for name in names or file.keys()}
