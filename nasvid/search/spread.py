"""Architectures that span a space: over all costs, and different in shape where costs are near."""

from __future__ import annotations

import numpy as np

from nasvid.architecture import Architecture
from nasvid.errors import UserError
from nasvid.host.streams import stream
from nasvid.host.words import counted
from nasvid.shapes import VideoShape
from nasvid.space import SearchSpace

DRAWN, COUNTED = 64, 4
"""Architectures drawn at each cost; few where each has to be counted."""
NEAREST = 8
"""Those of them that are nearest the cost; one is taken."""
PATIENCE = 32
"""Costs tried for each architecture before a space counts as exhausted."""


def spread(space: SearchSpace, shape: VideoShape, n: int) -> list[Architecture]:
    """Return n architectures that span a space, without duplicates: a prefix of one sequence.

    They are the same whatever a run's seed, so that runs can be compared.

    First come the smallest and the largest. The others' MACs for a clip of `shape` follow a van
    der Corput sequence on a logarithmic scale (half way, a quarter, three quarters and so on), so
    that any number of them is spread evenly. Of several random architectures of such a cost, the
    one is taken that is least like all before it.

    Raises:
        UserError: the space has fewer.
    """
    if n > space.size:
        raise _too_many(n, space.size)
    chosen = [space.smallest, space.largest][:n]
    low, high = (space.cost(arch, "macs", shape) for arch in (space.smallest, space.largest))
    for number in range(1, PATIENCE * n):
        if len(chosen) == n:
            return chosen
        macs = low ** (1 - _van_der_corput(number)) * high ** _van_der_corput(number)
        drawn = _near(space, shape, macs, stream(0, "spread", number))
        if new := [arch for arch in drawn if arch not in chosen]:
            chosen.append(_least_like(space, new, chosen))
    if len(chosen) < n:
        raise _too_many(n, len(chosen))
    return chosen


def _too_many(wanted: int, found: int) -> UserError:
    return UserError(
        f"--n {wanted}: this space has only {counted(found, 'architecture')} that can be told "
        f"apart by cost; ask for {found} or fewer"
    )


def _van_der_corput(number: int) -> float:
    """Return the binary digits of a number from 1, reversed, behind the point: 1/2, 1/4, 3/4."""
    return int(f"{number:b}"[::-1], 2) / 2 ** number.bit_length()


def _near(
    space: SearchSpace, shape: VideoShape, macs: float, rng: np.random.Generator
) -> list[Architecture]:
    """Return random architectures of about a cost, each once."""
    fraction = macs / space.cost(space.largest, "macs", shape)
    number = DRAWN if space.has_cost_formula else COUNTED
    drawn = [space.smallest_above(rng, "macs", fraction, shape) for _ in range(number)]
    distance = {arch: space.cost(arch, "macs", shape) - macs for arch in drawn}
    return sorted(distance, key=lambda arch: distance[arch])[:NEAREST]


def _least_like(
    space: SearchSpace, candidates: list[Architecture], others: list[Architecture]
) -> Architecture:
    """Return the candidate that is farthest from the nearest of the others."""
    tops = np.array([max(len(choice.options) - 1, 1) for choice in space.choices])
    ours, theirs = (
        np.stack([space.encode(arch) for arch in archs]) / tops for archs in (candidates, others)
    )
    distances = np.abs(ours[:, None] - theirs[None]).mean(axis=2).min(axis=1)
    return candidates[int(distances.argmax())]
