"""The parts of a space's networks that a table has entries for, and the variants of each.

Nothing is declared by the space: which choices a part depends on is seen by changing one choice at
a time and comparing what runs.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from nasvid.errors import UserError
from nasvid.space import SearchSpace

SPLIT = 32
"""Combinations of options above which a module's parts are timed one by one."""
MOST = 4096
"""Combinations of options that one part may have."""
BASES = 2
"""Random architectures in which each choice is changed, besides the largest."""

Calls = Mapping[str, str]
"""Call of a module -> what decides how long it takes, in the order they end."""


@dataclass(frozen=True, slots=True)
class Unit:
    """A part of the network, and the choices that decide how it runs.

    name: of the call of a module. choices: positions in a genome, ascending.
    """

    name: str
    choices: tuple[int, ...]

    @property
    def module(self) -> str:
        """The module's name."""
        return self.name.partition("#")[0]


def find_units(
    space: SearchSpace, calls: Callable[[np.ndarray], Calls], rng: np.random.Generator
) -> list[Unit]:
    """Return the units of a space in the order they run.

    calls: of one genome's network. A module that depends on few choices is one unit; one that
    depends on many is split into the modules that it calls, down to single layers.

    Raises:
        UserError: a layer depends on too many choices at once.
    """
    touched = _touched(space, calls, rng)
    modules = dict.fromkeys(name.partition("#")[0] for name in touched)
    below = _callees(modules)
    chosen: set[str] = set()
    pending = list(below[""]) or [""]
    for module in pending:
        units = [name for name in touched if name.partition("#")[0] == module]
        count = max(math.prod(_sizes(space, touched[name])) for name in units)
        if count > SPLIT and below[module]:
            pending += below[module]
        elif count > MOST:
            names = ", ".join(space.choices[i].name for i in sorted(touched[units[0]]))
            raise UserError(
                f"{module} depends on too many choices at once for a table ({names}); make it of "
                "smaller modules"
            )
        else:
            chosen.add(module)
    return [
        Unit(name, tuple(sorted(choices)))
        for name, choices in touched.items()
        if name.partition("#")[0] in chosen
    ]


def _touched(
    space: SearchSpace, calls: Callable[[np.ndarray], Calls], rng: np.random.Generator
) -> dict[str, set[int]]:
    """Return for each call the choices that change it or whether it happens."""
    bases = np.stack([space.encode(space.largest), *space.random_genomes(rng, BASES)])
    touched: dict[str, set[int]] = {}
    for base in bases:
        own = calls(base)
        touched |= {name: set() for name in own if name not in touched}
        for i, choice in enumerate(space.choices):
            other = base.copy()
            other[i] = 0 if base[i] else len(choice.options) - 1
            other = space.canonical(other[None])[0]
            if other[i] != base[i] and _alone(space, i, base, other):
                _compare(i, own, calls(other), touched)
    for choices in touched.values():
        choices |= {gate for i in choices for gate in _gates(space, i)}
    return touched


def _alone(space: SearchSpace, choice: int, base: np.ndarray, other: np.ndarray) -> bool:
    """Whether two genomes differ in a choice and what it gates, and no rule has changed others."""
    changed = np.flatnonzero(base != other).tolist()
    return all(i == choice or choice in _gates(space, i) for i in changed)


def _compare(choice: int, one: Calls, other: Calls, touched: dict[str, set[int]]) -> None:
    for name in dict.fromkeys((*one, *other)):
        if one.get(name) != other.get(name):
            touched.setdefault(name, set()).add(choice)


def _gates(space: SearchSpace, choice: int) -> Iterator[int]:
    """Yield the on/off choices without which a choice has no effect."""
    gate = space.choices[choice].requires
    if gate is not None:
        at = next(i for i, each in enumerate(space.choices) if each.name == gate)
        yield at
        yield from _gates(space, at)


def _callees(modules: Iterable[str]) -> dict[str, list[str]]:
    """Return for each module that is called the nearest ones below it that are called."""
    below: dict[str, list[str]] = {"": []} | {name: [] for name in modules}
    for name in filter(None, below):
        above = name.rpartition(".")[0]
        while above not in below:
            above = above.rpartition(".")[0]
        below[above].append(name)
    return below


def _sizes(space: SearchSpace, choices: Iterable[int]) -> list[int]:
    return [len(space.choices[i].options) for i in sorted(choices)]


def combinations(space: SearchSpace, unit: Unit) -> list[tuple[int, ...]]:
    """Return every combination of a unit's options that some canonical genome has."""
    every = itertools.product(*map(range, _sizes(space, unit.choices)))
    place = {choice: i for i, choice in enumerate(unit.choices)}
    gated = [(place[i], place[gate]) for i in unit.choices for gate in _gates(space, i)]
    rows = [row for row in every if all(row[gate] or not row[i] for i, gate in gated)]
    return [row for row in rows if _fits(space, dict(zip(unit.choices, row, strict=True)), {})]


def covering(
    space: SearchSpace, units: Sequence[Unit], rng: np.random.Generator
) -> list[np.ndarray]:
    """Return genomes that together have every combination of every unit's options.

    As many units as possible take a new combination in each genome; the rest is random.
    """
    left = {unit: dict.fromkeys(combinations(space, unit)) for unit in units}
    genomes = [space.encode(space.largest), space.encode(space.smallest)]
    for genome in genomes:
        _tick(left, genome)
    while any(left.values()):
        fixed: dict[int, int] = {}
        for unit in sorted(left, key=lambda unit: -len(left[unit])):
            pairs = (dict(zip(unit.choices, row, strict=True)) for row in left[unit])
            fixed |= next((own for own in pairs if _fits(space, own, fixed)), {})
        genome = _fixed(space, space.random_genomes(rng, 1)[0], fixed)
        if genome is None:
            genome = _fixed(space, genomes[0], fixed)
        assert genome is not None
        _tick(left, genome)
        genomes.append(genome)
    return genomes


def _fits(space: SearchSpace, own: Mapping[int, int], fixed: Mapping[int, int]) -> bool:
    """Whether some genome has the options of both."""
    if any(fixed.get(i, option) != option for i, option in own.items()):
        return False
    return (
        not space.rules or _fixed(space, space.encode(space.largest), {**fixed, **own}) is not None
    )


def _fixed(space: SearchSpace, genome: np.ndarray, fixed: Mapping[int, int]) -> np.ndarray | None:
    """Return a genome with some options replaced, None if a rule of the space forbids it."""
    wanted = genome.copy()
    for i, option in fixed.items():
        wanted[i] = option
    found = space.canonical(wanted[None])[0]
    return found if all(found[i] == option for i, option in fixed.items()) else None


def _tick(left: Mapping[Unit, dict[tuple[int, ...], None]], genome: np.ndarray) -> None:
    for unit, rows in left.items():
        rows.pop(tuple(int(genome[i]) for i in unit.choices), None)
