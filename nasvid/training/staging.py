"""Copies of a training's state in the host's memory, which are written while training goes on."""

from __future__ import annotations

from collections.abc import Mapping

import torch

from nasvid.host.aligned import ALIGNMENT

PORTABLE = 1
"""CUDA's flag for memory that is pinned for all devices (`cudaHostRegisterPortable`)."""


class Staging:
    """One block of memory that holds the copies of one checkpoint after another.

    For tensors of a GPU it is pinned. torch's own pinned memory is rounded up to a power of two,
    and kept when it is freed.
    """

    def __init__(self, device: torch.device) -> None:
        """Prepare for tensors of a device; some of them may be on the host."""
        self._device = device
        self._block = torch.empty(0, dtype=torch.uint8)

    def make_room(self, size: int) -> None:
        """Allocate the memory for `size` bytes, and write to it: the system gives it only then."""
        if size <= len(self._block):
            return
        self.close()
        block = torch.empty(size, dtype=torch.uint8).zero_()
        if self._device.type == "cuda":
            with torch.cuda.device(self._device):  # another thread's is the first one
                _called("cudaHostRegister", block.data_ptr(), size, PORTABLE)
        self._block = block

    def copies(
        self, files: Mapping[str, Mapping[str, torch.Tensor]]
    ) -> dict[str, dict[str, torch.Tensor]]:
        """Return copies of the tensors, in place of those of the last call."""
        all_ = [tensor for tensors in files.values() for tensor in tensors.values()]
        self.make_room(sum(map(room, all_)))
        start, copied = 0, {}
        for file, tensors in files.items():
            copied[file] = {}
            for name, tensor in tensors.items():
                place = self._block[start : start + tensor.nbytes].view(tensor.dtype)
                copied[file][name] = place.view(tensor.shape)
                copied[file][name].copy_(tensor, non_blocking=tensor.is_cuda)
                start += room(tensor)
        if self._device.type == "cuda":
            torch.cuda.current_stream(self._device).synchronize()
        return copied

    def close(self) -> None:
        """Free the memory; copies in it must not be used any more."""
        if self._device.type == "cuda" and len(self._block):
            _called("cudaHostUnregister", self._block.data_ptr())
        self._block = torch.empty(0, dtype=torch.uint8)


def room(tensor: torch.Tensor) -> int:
    """Return the bytes that a tensor takes in the block, so that the next one is aligned."""
    return -(-tensor.nbytes // ALIGNMENT) * ALIGNMENT


def _called(function: str, *arguments: int) -> None:
    """Call a function of the CUDA runtime.

    Raises:
        RuntimeError: it has failed.
    """
    torch.cuda.check_error(getattr(torch.cuda.cudart(), function)(*arguments))
