"""Building a table from the times and the memory of the parts of a design's networks."""

from __future__ import annotations

import itertools
import statistics
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import astuple

import numpy as np
from torch import nn

from nasvid.latency.design import Design
from nasvid.latency.passes import END, Bytes, Modules, cut, memory_of
from nasvid.latency.table import ABSENT, Around, Entries, LatencyTable, Made, Part, identity
from nasvid.latency.timing import Bench, Times, median_totals, timed
from nasvid.latency.units import Unit
from nasvid.shapes import Resolution
from nasvid.space import SearchSpace

ROUNDS = 10
"""Rounds in which every network of a design is timed."""


def build(
    bench: Bench,
    design: Design,
    made: Made,
    around: Around,
    *,
    rounds: int = ROUNDS,
    on_visit: Callable[[], object] = lambda: None,
) -> LatencyTable:
    """Time the networks of a design, and return the table.

    on_visit: called after each network of each round.
    """
    space = bench.supernet.space
    weights, memory = _memory(bench, design)
    times = timed(bench, design.genomes, design.modules, rounds, on_visit)
    return LatencyTable(
        made=made,
        space=identity(space),
        shapes=dict(bench.shapes),
        parts=tuple(_part(space, design, unit) for unit in design.units),
        weights=weights,
        entries={
            resolution: _entries(design, times[resolution], memory[resolution])
            for resolution in bench.shapes
        },
        inputs={
            resolution: sum(tensor.nbytes for tensor in astuple(inputs))
            for resolution, inputs in bench.inputs.items()
        },
        timed=tuple(space.decode(genome).id for genome in design.genomes),
        around=around,
    )


def _part(space: SearchSpace, design: Design, unit: Unit) -> Part:
    """Return a part; combinations of options that no canonical genome has are `ABSENT`."""
    known = design.variants[unit.name]
    every = itertools.product(*(range(len(space.choices[i].options)) for i in unit.choices))
    return Part(
        name=unit.name,
        choices=tuple(space.choices[i].name for i in unit.choices),
        variants=tuple(known.get(row, ABSENT) for row in every),
    )


def _entries(
    design: Design, times: Sequence[Sequence[Times]], memory: Sequence[Mapping[str, Bytes]]
) -> Entries:
    """Return what each variant takes: medians over all passes of all networks that have it.

    Of peaks of memory it is the most: what comes before differs a little between networks. Medians
    of parts do not add up to the median of the whole, so milliseconds are scaled by what the
    networks' whole passes say.
    """
    ms: dict[int, list[float]] = defaultdict(list)
    peak: dict[int, list[int]] = defaultdict(list)
    left: dict[int, list[int]] = defaultdict(list)
    for genome, passes, parts in zip(design.genomes, times, memory, strict=True):
        for name, variant in _variants(design, genome):
            ms[variant] += [each[name] for each in passes]
            peak[variant].append(parts[name].peak)
            left[variant].append(parts[name].left)
    each = np.array(_medians(design, ms))
    sums = [sum(each[variant] for _, variant in _variants(design, g)) for g in design.genomes]
    scale = statistics.median(median_totals(times) / np.array(sums))
    return Entries(
        ms=tuple(float(value) for value in scale * each),
        peak=tuple(max(peak[v]) if v in peak else 0 for v in range(design.count)),
        left=tuple(round(value) for value in _medians(design, left)),
    )


def _variants(design: Design, genome: np.ndarray) -> Iterator[tuple[str, int]]:
    """Yield the parts that a network runs, and the variant of each."""
    for unit in design.units:
        variant = design.of(unit, genome)
        if variant != ABSENT:
            yield unit.name, variant


def _medians(design: Design, found: Mapping[int, Sequence[float]]) -> list[float]:
    """Return the median by variant; nothing for `ABSENT`."""
    return [statistics.median(found[v]) if v in found else 0.0 for v in range(design.count)]


def _memory(
    bench: Bench, design: Design
) -> tuple[tuple[int, ...], dict[Resolution, list[dict[str, Bytes]]]]:
    """Return the bytes of each variant's weights, and resolution -> genome -> memory of each part.

    Weights outside of all parts count for what runs last.
    """
    weights: dict[int, list[int]] = defaultdict(list)
    memory = {resolution: [] for resolution in bench.shapes}
    for genome in design.genomes:
        model = bench.model(genome)
        named = bench.modules(genome, model)
        sizes = {name: _size(module) for name, module in named.items()}
        inside = {module: sizes[module] for module in design.modules if module in sizes}
        for name, variant in _variants(design, genome):
            rest = sizes[""] - sum(inside.values())
            first = "#" not in name  # a module that runs twice has its weights once
            weights[variant].append(rest if name == END else sizes[name] if first else 0)
        for resolution in bench.shapes:
            memory[resolution].append(_watched(bench, named, design.modules, resolution))
    return tuple(round(value) for value in _medians(design, weights)), memory


def _size(module: nn.Module) -> int:
    return sum(tensor.nbytes for tensor in (*module.parameters(), *module.buffers()))


def _watched(
    bench: Bench, named: Modules, names: Sequence[str], resolution: Resolution
) -> dict[str, Bytes]:
    with bench.inference(), memory_of(bench.device) as memory:
        begin = cut(named, names, memory.mark)
        begin()
        bench.run(named[""], resolution)
        memory.mark(END)
    return memory.parts
