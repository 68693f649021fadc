"""Assertions on tensors whose messages say what is wrong with them, NaN first of all."""

from __future__ import annotations

import torch


def assert_finite(tensor: torch.Tensor, what: str) -> None:
    """Assert that all numbers are finite; otherwise say how many are NaN or infinite."""
    wrong = [
        f"{int(found.sum())} of its {tensor.numel()} numbers are {name}"
        for name, found in (("NaN", tensor.isnan()), ("infinite", tensor.isinf()))
        if found.any()
    ]
    assert not wrong, f"{what} is not finite: {' and '.join(wrong)}"


def assert_same(found: torch.Tensor, expected: torch.Tensor, what: str) -> None:
    """Assert that two finite tensors are equal bit for bit; otherwise say how they differ."""
    assert found.shape == expected.shape, (
        f"{what} has shape {tuple(found.shape)}, not {tuple(expected.shape)}"
    )
    for tensor in (found, expected):
        assert_finite(tensor, what)
    wrong = found != expected
    assert not wrong.any(), (
        f"{what} differs in {int(wrong.sum())} of {wrong.numel()} numbers, "
        f"at most by {(found.double() - expected.double()).abs().max().item():.3g}"
    )
