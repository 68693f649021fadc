"""Channels, heads and hidden units of diffusers' models, found by the names of their weights."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence

import torch

from nasvid.units import Place, Units


def produced(
    layer: str, shapes: Mapping[str, torch.Size], start: int = 0, size: int = 1
) -> list[Place]:
    """Return the places of a linear layer's output units: in its weight and its bias."""
    names = (f"{layer}.{leaf}" for leaf in ("weight", "bias"))
    return [Place(name, 0, size, start) for name in names if name in shapes]


def channels(
    shapes: Mapping[str, torch.Size],
    width: int,
    *,
    written: Sequence[str],
    read: Sequence[str],
    scaled: Sequence[str] = (),
    name: str = "channels",
) -> Units:
    """Return channels that many layers share, such as those of a residual stream.

    written: endings of the layers whose outputs they are, or whose outputs are several parts of
    this width. read: endings of the layers whose inputs they are. scaled: endings of the tensors
    whose last dimension they are.
    """
    places = []
    for tensor, shape in shapes.items():
        layer = tensor.removesuffix(".weight").removesuffix(".bias")
        if layer != tensor and layer.endswith(tuple(written)):
            places += [Place(tensor, 0, start=start) for start in range(0, shape[0], width)]
        if tensor.endswith(".weight") and layer.endswith(tuple(read)):
            places.append(Place(tensor, 1))
        if tensor.endswith(tuple(scaled)):
            places.append(Place(tensor, len(shape) - 1))
    return Units(name, width, tuple(places))


def heads(shapes: Mapping[str, torch.Size], head_dim: int, besides: str = " ") -> Iterator[Units]:
    """Yield the heads of every attention that has `to_q`, `to_k`, `to_v` and `to_out.0`.

    Text may have projections of its own: `add_q_proj` and so on, and `to_add_out`.

    besides: suffix of the attentions to skip, because their heads differ by more than weights.
    """
    for layer in _owners(shapes, ".to_q.weight"):
        read = [f"{layer}.{name}.weight" for name in ("to_out.0", "to_add_out")]
        if layer.endswith(besides) or read[0] not in shapes:
            continue
        places = [Place(name, 1, head_dim) for name in read if name in shapes]
        places += attended(layer, shapes, head_dim)
        yield Units(f"{layer}.heads", shapes[read[0]][1] // head_dim, tuple(places))


def attended(layer: str, shapes: Mapping[str, torch.Size], head_dim: int) -> Iterator[Place]:
    """Yield the places of an attention's heads in its projections and norms."""
    width = shapes[f"{layer}.to_q.weight"][0]
    text = ("add_q_proj", "add_k_proj", "add_v_proj")
    for name in ("to_q", "to_k", "to_v", *text, "norm_q", "norm_k"):
        if shapes.get(f"{layer}.{name}.weight", [0])[0] == width:  # or all heads share a norm
            yield from produced(f"{layer}.{name}", shapes, size=head_dim)


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


def embedders(shapes: Mapping[str, torch.Size]) -> Iterator[Units]:
    """Yield the hidden units of every embedding of two layers, `linear_1` and `linear_2`."""
    for layer in _owners(shapes, ".linear_2.weight"):
        count = shapes[f"{layer}.linear_2.weight"][1]
        if shapes.get(f"{layer}.linear_1.weight", [0])[0] == count:
            places = produced(f"{layer}.linear_1", shapes)
            yield Units(f"{layer}.units", count, (Place(f"{layer}.linear_2.weight", 1), *places))


def _owners(names: Iterable[str], ending: str) -> Iterator[str]:
    return (name.removesuffix(ending) for name in names if name.endswith(ending))
