"""Which networks are timed, so that every variant of every part is seen."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np

from nasvid.latency.passes import END, names_of_calls
from nasvid.latency.table import ABSENT
from nasvid.latency.timing import Bench
from nasvid.latency.units import Unit, covering, find_units


@dataclass(frozen=True, slots=True)
class Design:
    """What is timed to know all variants.

    units: the parts, the last one being what runs after all others. variants: unit's name -> for
    each combination of its options that can be, the number of its variant. genomes: whose networks
    have all variants.
    """

    units: tuple[Unit, ...]
    variants: Mapping[str, Mapping[tuple[int, ...], int]]
    genomes: tuple[np.ndarray, ...]

    @property
    def modules(self) -> tuple[str, ...]:
        """The modules after which a pass is cut."""
        return tuple(dict.fromkeys(unit.module for unit in self.units if unit.name != END))

    def of(self, unit: Unit, genome: np.ndarray) -> int:
        """Return a unit's variant in a network."""
        return self.variants[unit.name][tuple(int(genome[i]) for i in unit.choices)]

    @property
    def count(self) -> int:
        """The number of variants, with `ABSENT`."""
        return 1 + max(max(each.values()) for each in self.variants.values())


def design(bench: Bench, seed: int = 0) -> Design:
    """Find the parts of a space's networks, their variants, and networks that have all of them.

    Two combinations of options are one variant if the same modules run on the same inputs.
    """
    space, rng = bench.supernet.space, np.random.default_rng(seed)
    known: dict[bytes, dict[str, str]] = {}
    resolution = min(bench.shapes)

    def calls(genome: np.ndarray) -> dict[str, str]:
        if genome.tobytes() not in known:
            model = bench.model(genome)
            modules = bench.modules(genome, model)
            known[genome.tobytes()] = names_of_calls(modules, lambda: bench.run(model, resolution))
        return known[genome.tobytes()]

    with bench.inference():
        units = [*find_units(space, calls, rng), Unit(END, ())]
        genomes = covering(space, units, rng)
        seen = [calls(genome) | {END: END} for genome in genomes]
    numbers: dict[tuple[str, str], int] = {}
    variants: dict[str, dict[tuple[int, ...], int]] = {unit.name: {} for unit in units}
    for genome, each in zip(genomes, seen, strict=True):
        for unit in units:
            number = ABSENT
            if unit.name in each:
                number = numbers.setdefault((unit.name, each[unit.name]), len(numbers) + 1)
            variants[unit.name][tuple(int(genome[i]) for i in unit.choices)] = number
    found = Design(tuple(units), variants, tuple(genomes))
    return replace(found, genomes=tuple(_enough(found)))


def _enough(found: Design) -> list[np.ndarray]:
    """Return some of the genomes: each of them has a variant that those before it have not."""
    chosen, seen = [], {ABSENT}
    for genome in found.genomes:
        own = {found.of(unit, genome) for unit in found.units}
        if not own <= seen:
            chosen.append(genome)
            seen |= own
    return chosen
