"""Architectures that span a space: nested, over all costs, unlike each other."""

import math

import numpy as np
import pytest

from nasvid.errors import UserError
from nasvid.search.spread import spread
from nasvid.testing.toy import LARGE, SHAPES, ToySpace

SHAPE = SHAPES[LARGE]


def macs(space: ToySpace, archs) -> np.ndarray:
    return np.array([space.cost(arch, "macs", SHAPE) for arch in archs])


def test_a_larger_number_keeps_what_a_smaller_one_has_chosen() -> None:
    space = ToySpace.of(blocks=5)
    longest = spread(space, SHAPE, 14)
    assert len(set(longest)) == 14
    assert longest[:2] == [space.smallest, space.largest]
    for n in (1, 2, 9):
        assert spread(space, SHAPE, n) == longest[:n]


def test_costs_are_spread_evenly() -> None:
    space = ToySpace.of(widths=tuple(range(4, 33)), blocks=5)
    costs = np.sort(np.log(macs(space, spread(space, SHAPE, 17))))
    away = np.abs((costs - costs[0]) / (costs[-1] - costs[0]) - np.linspace(0, 1, 17))
    assert np.median(away) < 0.01
    assert away.max() < 0.12  # the smallest have few neighbours


def test_architectures_are_less_alike_than_random_ones_of_the_same_costs() -> None:
    space = ToySpace.of(widths=tuple(range(4, 33)), blocks=5)
    tops = np.array([len(choice.options) - 1 for choice in space.choices])

    def to_the_nearest(archs) -> float:
        genomes = np.stack([space.encode(arch) for arch in archs]) / tops
        distances = np.abs(genomes[:, None] - genomes[None]).mean(axis=2)
        return float((distances + np.eye(len(archs))).min(axis=1).mean())

    ours = spread(space, SHAPE, 17)
    rng = np.random.default_rng(0)
    share = macs(space, ours) / macs(space, ours).max()
    random = [space.smallest_above(rng, "macs", part, SHAPE) for part in share]
    assert to_the_nearest(ours) > 1.3 * to_the_nearest(random)


def test_a_space_that_is_too_small_is_told_of() -> None:
    space = ToySpace.of(widths=(2, 4), blocks=1)
    assert space.size == 6
    found = spread(space, SHAPE, space.size)
    assert len(set(found)) == space.size
    with pytest.raises(UserError, match="--n 7: this space has only 6 architectures"):
        spread(space, SHAPE, 7)
    assert math.isfinite(macs(space, found).sum())
