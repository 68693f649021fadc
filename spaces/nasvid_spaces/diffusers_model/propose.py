"""Choices for a model that exists: from its own size down to a fraction of its parameters."""

from __future__ import annotations

import math
from bisect import bisect_left
from collections.abc import Iterator, Mapping
from itertools import groupby
from typing import TYPE_CHECKING, Any

from nasvid.architecture import Architecture
from nasvid.shapes import Domain
from nasvid_spaces.diffusers_model.choices import Blocks, Options

if TYPE_CHECKING:
    from nasvid_spaces.diffusers_model.space import DiffusersModelSpace

PARTS, FEWEST = 16, 4
"""Widths are whole sixteenths of the model's own, and a quarter of it at least."""
SHARES = 64
"""Fractions of the blocks that are tried."""
NARROWING = 1 / 3
"""Of a fraction x of the blocks, layers keep x to this power of their widths: leaving out blocks
costs a trained model less than narrowing all of them."""

Widths = Mapping[str, Options]
"""Choice -> widths that its settings can have, ascending; the last is the model's own."""


def proposed_choices(
    space: type[DiffusersModelSpace], model: Mapping[str, Any], domain: Domain, keep: float
) -> dict[str, Options | Blocks]:
    """Return choices whose smallest model has at least a fraction of the parameters.

    It has as little more as possible.

    Raises:
        ValueError: there is no smaller model that has as many, or the model is not of the space.
    """
    settings = space.complete(model)
    widths = dict(_widths(space, settings))
    blocks = {setting: settings[setting] for setting in space.blocks if settings[setting] > 1}
    if not widths and not blocks:
        raise ValueError(f"nothing of this {space.model} can be left out")
    every = widths | {setting: Blocks(keep=1) for setting in blocks}
    ruler = space(space.inherit(space.choosing(every), model), domain)
    least = keep * _params(ruler, ruler.largest)

    def is_too_small(fewer: int) -> bool:
        share = 1 - fewer / SHARES
        return _params(ruler, _smallest(ruler, widths, blocks, share)) < least

    fewer = bisect_left(range(1, SHARES), True, key=is_too_small)
    share = 1 - fewer / SHARES
    choices: dict[str, Options | Blocks] = {}
    for setting, count in blocks.items():
        if (kept := _count(share, count)) < count:
            choices[setting] = Blocks(keep=kept)
    for name, options in widths.items():
        if (low := _narrow(share, options)) < options[-1]:
            middle = _nearest(options, (low + options[-1]) / 2)
            choices[name] = tuple(sorted({low, middle, options[-1]}))
    if not choices:
        raise ValueError(
            f"no smaller {space.model} has {keep:.0%} of this one's parameters; keep less"
        )
    return choices


def _widths(
    space: type[DiffusersModelSpace], settings: Mapping[str, Any]
) -> Iterator[tuple[str, Options]]:
    """Yield choices of widths; neighbours in a list that are equal are one choice."""
    for setting in space.narrowed(settings):
        value, multiple = settings[setting], space.multiple(setting, settings)
        if not isinstance(value, list | tuple):
            options = _options(value, multiple)
            if len(options) > 1:
                yield setting, options
            continue
        above = 0  # no two levels have an option in common
        for width, group in groupby(enumerate(value), key=lambda entry: entry[1]):
            name = f"{setting}.{'+'.join(str(i) for i, _ in group)}"
            options = tuple(option for option in _options(width, multiple) if option > above)
            if len(options) > 1:
                yield name, options
            above = width


def _options(width: float, multiple: int) -> Options:
    """Return fractions of a width that are multiples of a number; none if it is not one itself."""
    if width % multiple:
        return ()
    parts = (width * part / PARTS / multiple for part in range(FEWEST, PARTS + 1))
    return tuple(sorted({max(1, round(part)) * multiple for part in parts}))


def _smallest(
    ruler: DiffusersModelSpace, widths: Widths, blocks: Mapping[str, int], share: float
) -> Architecture:
    options: dict[str, bool | int] = {name: _narrow(share, of) for name, of in widths.items()}
    for setting, count in blocks.items():
        switches = enumerate(ruler.switches(setting))
        options |= {name: i < _count(share, count) for i, name in switches}
    return ruler.architecture(options)


def _count(share: float, blocks: int) -> int:
    return max(1, round(share * blocks))


def _narrow(share: float, options: Options) -> int:
    return _nearest(options, share**NARROWING * options[-1])


def _nearest(options: Options, width: float) -> int:
    return min(options, key=lambda option: abs(option - width))


def _params(space: DiffusersModelSpace, arch: Architecture) -> int:
    return sum(math.prod(shape) for shape in space.shapes(arch).values())
