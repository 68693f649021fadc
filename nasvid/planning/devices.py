"""The devices that a plan is for: cards by name, or numbers. Nothing here imports torch."""

from __future__ import annotations

import re
from dataclasses import dataclass, replace

from nasvid.errors import UserError, nearest

PER_NODE = 8
"""Devices that a card's own links join; between more, the network is the narrower way."""
NETWORK = 25e9
"""Bytes per second that each device sends over the network where there are several nodes: 200 Gb/s
for each, as in an HGX A100 (ConnectX-6); newer ones have twice that."""


@dataclass(frozen=True, slots=True)
class Devices:
    """What is known of the devices; None is not.

    count: of all nodes together. memory: bytes of each. bf16, fp32: peak FLOP/s of each, dense.
    bandwidth: bytes per second that each sends to the others while it receives as many.
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
"""Peaks are of dense products. In fp32 they are those of plain fp32, not of TF32."""


def parse_devices(text: str, *, flops: str | None = None, bandwidth: str | None = None) -> Devices:
    """Return what `8`, `80GB`, `8x80GB`, `8xH100` or `A100-40GB` say.

    flops: peak of each at the recipe's precision, instead of the card's: `990TFLOPS` or `990e12`.
    bandwidth: `450GB/s`, or in bits `400Gb/s`.

    Raises:
        UserError: none of these.
    """
    count, what = _counted(text)
    devices = _card(what, text) if what else Devices()
    if flops is not None:
        peak = _quantity("--flops", flops, r"(FLOPS|FLOP/s)?", 1, "990TFLOPS")
        devices = replace(devices, bf16=peak, fp32=peak)
    if bandwidth is not None:
        bits = re.fullmatch(r".*[^B]b(it)?/s", bandwidth) is not None
        unit = r"(b|bit|B|byte|bytes)?(/s)?"
        sent = _quantity("--bandwidth", bandwidth, unit, 8 if bits else 1, "450GB/s")
        devices = replace(devices, bandwidth=sent)
    elif devices.bandwidth is not None and count > PER_NODE:
        devices = replace(devices, bandwidth=min(devices.bandwidth, NETWORK))
    return replace(devices, count=count)


def known_card(name: str) -> Devices | None:
    """Return what is known of a card that a driver calls so: `NVIDIA H100 80GB HBM3`."""
    words = re.sub(r"RTX (\d)", r"RTX\1", name).replace("-", " ").split()
    return next((replace(CARDS[word], name=word) for word in words if word in CARDS), None)


def _counted(text: str) -> tuple[int, str]:
    match = re.fullmatch(r"(?:(\d+)x)?(.+)|(\d+)", text.strip())
    if match is not None and text.strip().isdigit():
        count, what = int(text), ""
    elif match is not None:
        count, what = int(match[1] or 1), match[2]
    else:
        count, what = 0, ""
    if count < 1:
        raise UserError(f"--devices {text}: give a number of at least 1, as in 8x80GB or 8xH100")
    return count, what


def _card(what: str, text: str) -> Devices:
    match = re.fullmatch(r"(?:(.+?)-)?(\d+(?:\.\d+)?)(GB|GiB)", what)
    name = what if match is None else match[1]
    memory = None
    if match is not None:
        memory = int(float(match[2]) * (10**9 if match[3] == "GB" else 2**30))
    if name is None:
        return Devices(memory=memory)
    key = name.upper().replace(" ", "").replace("_", "")
    if key not in CARDS:
        raise UserError(
            f"--devices {text}: '{name}' is not a card known here{nearest(key, list(CARDS))}; "
            "of others say the memory, as in 8x80GB, --flops and --bandwidth"
        )
    card = replace(CARDS[key], name=key)
    return card if memory is None else replace(card, memory=memory)


_PREFIXES = {"": 1.0, "k": 1e3, "M": 1e6, "G": 1e9, "T": 1e12, "P": 1e15}


def _quantity(option: str, text: str, unit: str, divisor: float, example: str) -> float:
    match = re.fullmatch(rf"(\d+(?:\.\d+)?(?:e\d+)?)\s*([kMGTP]?)(?:{unit})", text.strip())
    value = float(match[1]) * _PREFIXES[match[2]] / divisor if match else 0.0
    if value <= 0:
        raise UserError(f"{option} {text}: write a number above 0 and its unit, as in {example}")
    return value
