"""Memory, peak speed and links of well-known GPUs, by name. Nothing here imports torch."""

from __future__ import annotations

import re
from dataclasses import dataclass, replace


@dataclass(frozen=True, slots=True)
class Devices:
    """The properties of a job's devices; None if unknown.

    count: over all nodes. memory: bytes of each. bf16, fp32: peak FLOP/s of each, dense.
    bandwidth: bytes per second that each can send to the others while receiving as many.
    name: of the card, or "".
    """

    count: int = 1
    memory: int | None = None
    bf16: float | None = None
    fp32: float | None = None
    bandwidth: float | None = None
    name: str = ""

    def peak(self, precision: str) -> float | None:
        """Return the peak FLOP/s at a precision; fp16 runs as bf16."""
        return self.fp32 if precision == "fp32" else self.bf16


CARDS = {
    # nvidia.com: A100 datasheet (2021). NVLink 600 GB/s, both directions together, as in all below.
    "A100": Devices(1, 80 * 10**9, 312e12, 19.5e12, 300e9),
    # H100 datasheet, SXM (its figures for tensor cores are with sparsity: twice the dense ones).
    "H100": Devices(1, 80 * 10**9, 989e12, 67e12, 450e9),
    # H200 datasheet, SXM.
    "H200": Devices(1, 141 * 10**9, 989e12, 67e12, 450e9),
    # HGX B200 datasheet, an eighth of the board's.
    "B200": Devices(1, 180 * 10**9, 2250e12, 75e12, 900e9),
    # L40S, L4 and A10 datasheets: PCIe 4.0 x16, 64 GB/s.
    "L40S": Devices(1, 48 * 10**9, 362e12, 91.6e12, 32e9),
    "L4": Devices(1, 24 * 10**9, 121e12, 30.3e12, 32e9),
    "A10": Devices(1, 24 * 10**9, 125e12, 31.2e12, 32e9),
    # Ada GPU architecture whitepaper, appendix A; PCIe 4.0 x16.
    "RTX4090": Devices(1, 24 * 10**9, 165.2e12, 82.6e12, 32e9),
}
"""Peaks are for dense products; the fp32 ones are plain fp32, not TF32."""


def known_card(name: str) -> Devices | None:
    """Return the properties of a card by its driver's name, such as `NVIDIA H100 80GB HBM3`."""
    words = re.sub(r"RTX (\d)", r"RTX\1", name).replace("-", " ").split()
    return next((replace(CARDS[word], name=word) for word in words if word in CARDS), None)
