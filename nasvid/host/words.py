"""Counts and quantities in readable form."""

from __future__ import annotations

import math

FEW = 10_000
"""So many architectures are given as a number, more as a power of ten."""
PREFIXES = ((1e15, "P"), (1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k"))


def counted(number: int, noun: str, plural: str = "") -> str:
    """Return a count with its noun: `1 subnet`, `8 subnets`; plural: unless it just adds an s."""
    return f"{number} {noun if number == 1 else plural or noun + 's'}"


def architectures(number: int) -> str:
    """Return the size of a space: `64 architectures`, or `10^5.2 architectures` of very many."""
    if number < FEW:
        return counted(number, "architecture")
    return f"10^{math.log10(number):.1f} architectures"


def after_colon(message: str) -> str:
    """Return a sentence to put after a colon: in lower case unless it starts with a name."""
    first = message.partition(" ")[0]
    is_word = first[:1].isupper() and (first == "A" or first[1:].islower())
    return message[:1].lower() + message[1:] if is_word else message


def scaled(value: float) -> tuple[float, str]:
    """Return a value below 1000 and its prefix: 20900 is 20.9 and `k`."""
    for size, prefix in PREFIXES:
        if abs(value) >= size * 0.9995:
            return value / size, prefix
    return value, ""


def quantity(value: float, *, digits: int = 3, billion: str = "G") -> str:
    """Return a value with a prefix: `1.6G`, or `1.6B` with `billion="B"`."""
    number, prefix = scaled(value)
    return f"{number:.{digits}g}{billion if prefix == 'G' else prefix}"


def with_unit(value: float, unit: str) -> str:
    """Return a value with a prefix and a unit: `1.5 GB`."""
    number, prefix = scaled(value)
    return f"{number:.3g} {prefix}{unit}"


def bytes_text(number: float) -> str:
    """Return a number of bytes in readable form: `1.5 GB`."""
    return with_unit(number, "B")
