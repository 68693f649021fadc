"""Heads and feed-forward units of diffusers' models, found by the names of their weights."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping

import torch

from nasvid.units import Place, Units


def produced(
    layer: str, shapes: Mapping[str, torch.Size], start: int = 0, size: int = 1
) -> list[Place]:
    """Return the places of a linear layer's output units: in its weight and its bias."""
    names = (f"{layer}.{leaf}" for leaf in ("weight", "bias"))
    return [Place(name, 0, size, start) for name in names if name in shapes]


def heads(shapes: Mapping[str, torch.Size], head_dim: int, besides: str = " ") -> Iterator[Units]:
    """Yield the heads of every attention that has `to_q`, `to_k`, `to_v` and `to_out.0`.

    besides: suffix of the attentions to skip, because their heads differ by more than weights.
    """
    for layer in _owners(shapes, ".to_q.weight"):
        if layer.endswith(besides):
            continue
        places = [Place(f"{layer}.to_out.0.weight", 1, head_dim)]
        for name in ("to_q", "to_k", "to_v", "norm_q", "norm_k"):
            places += produced(f"{layer}.{name}", shapes, size=head_dim)
        count = shapes[f"{layer}.to_q.weight"][0] // head_dim
        yield Units(f"{layer}.heads", count, tuple(places))


def feed_forward(shapes: Mapping[str, torch.Size]) -> Iterator[Units]:
    """Yield the units of every feed-forward: the outputs of `net.0.proj`, inputs of `net.2`.

    A gated one has twice as many outputs: values, then gates.
    """
    for layer in _owners(shapes, ".net.0.proj.weight"):
        count = shapes[f"{layer}.net.2.weight"][1]
        places = [Place(f"{layer}.net.2.weight", 1)]
        for start in range(0, shapes[f"{layer}.net.0.proj.weight"][0], count):
            places += produced(f"{layer}.net.0.proj", shapes, start)
        yield Units(f"{layer}.units", count, tuple(places))


def _owners(names: Iterable[str], ending: str) -> Iterator[str]:
    return (name.removesuffix(ending) for name in names if name.endswith(ending))
