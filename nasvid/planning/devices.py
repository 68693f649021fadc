"""The devices of a plan, by name or by numbers. Nothing here imports torch."""

from __future__ import annotations

import re
from dataclasses import replace

from nasvid.errors import UserError, nearest
from nasvid.host.cards import CARDS, Devices

MOST = 1_000_000
"""Devices of a plan."""
PER_NODE = 8
"""Devices connected by a card's own links; beyond that, the network is the bottleneck."""
NETWORK = 25e9
"""Bytes per second that each device sends over the network between nodes: 200 Gb/s, as in an HGX
A100 (ConnectX-6); newer systems have twice that."""


def parse_devices(text: str, *, flops: str | None = None, bandwidth: str | None = None) -> Devices:
    """Parse a description of devices: `8`, `80GB`, `8x80GB`, `8xH100` or `A100-40GB`.

    flops: peak of each at the recipe's precision, instead of the card's: `990TFLOP/s` or `990e12`.
    bandwidth: `450GB/s`, or in bits `400Gb/s`.

    Raises:
        UserError: the description has another form.
    """
    count, what = _counted(text)
    devices = _card(what, text) if what else Devices()
    if flops is not None:
        peak = _quantity("--flops", flops, r"(FLOPS|FLOP/s)?", 1, "990TFLOP/s")
        devices = replace(devices, bf16=peak, fp32=peak)
    if bandwidth is not None:
        bits = re.fullmatch(r".*[^B]b(it)?/s", bandwidth) is not None
        unit = r"(b|bit|B|byte|bytes)?(/s)?"
        sent = _quantity("--bandwidth", bandwidth, unit, 8 if bits else 1, "450GB/s")
        devices = replace(devices, bandwidth=sent)
    elif devices.bandwidth is not None and count > PER_NODE:
        devices = replace(devices, bandwidth=min(devices.bandwidth, NETWORK))
    return replace(devices, count=count)


def _counted(text: str) -> tuple[int, str]:
    match = re.fullmatch(r"([0-9]+)(?:x(.+))?|(.+)", text.strip())
    number, what = (match[1] or "1", match[2] or match[3] or "") if match else ("0", "")
    count = int(number) if len(number) <= len(str(MOST)) else MOST + 1
    if not 1 <= count <= MOST:
        raise UserError(
            f"--devices {text[:60]}: write a number of at least 1 and at most {MOST}, such as "
            "8x80GB or 8xH100"
        )
    return count, what


def _card(what: str, text: str) -> Devices:
    match = re.fullmatch(r"(?:(.+?)-)?([0-9]{1,6}(?:\.[0-9]{1,6})?)(GB|GiB)", what)
    name = what if match is None else match[1]
    memory = None
    if match is not None:
        memory = int(float(match[2]) * (10**9 if match[3] == "GB" else 2**30))
        if memory == 0:
            raise UserError(f"--devices {text}: write the memory of a device, such as 8x80GB")
    if name is None:
        return Devices(memory=memory)
    key = name.upper().replace(" ", "").replace("_", "")
    if key not in CARDS:
        hint = nearest(key, list(CARDS))
        raise UserError(
            f"--devices {text}: '{name}' is not a known card{hint}{'' if hint[-1] == '?' else '.'} "
            "For others give the memory, such as 8x80GB, --flops and --bandwidth"
        )
    card = replace(CARDS[key], name=key)
    return card if memory is None else replace(card, memory=memory)


_PREFIXES = {"": 1.0, "k": 1e3, "M": 1e6, "G": 1e9, "T": 1e12, "P": 1e15}


def _quantity(option: str, text: str, unit: str, divisor: float, example: str) -> float:
    match = re.fullmatch(
        rf"([0-9]{{1,20}}(?:\.[0-9]{{1,20}})?(?:e[0-9]{{1,2}})?)\s*([kMGTP]?)(?:{unit})",
        text.strip(),
    )
    value = float(match[1]) * _PREFIXES[match[2]] / divisor if match else 0.0
    if value <= 0:
        raise UserError(f"{option} {text}: write a positive number and its unit, such as {example}")
    return value
