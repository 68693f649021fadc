"""Timing the parts of many networks in turn, so that a machine's drift slows all of them alike."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch
from torch import nn

from nasvid.costs import dummy_input
from nasvid.latency.passes import Clock, cut
from nasvid.shapes import DenoiserInput, Resolution, VideoShape
from nasvid.supernet import Supernet

PASSES = 3
"""Passes of a network in each round, of which the fastest counts: what else the machine does slows
some, and speeds up none."""

Times = dict[str, float]
"""Part of a pass -> its milliseconds."""


@dataclass(frozen=True)
class Bench:
    """Where and how networks are timed.

    supernet: on `device`, in eval mode; the weights do not matter. shapes: resolution -> shape of a
    clip. autocast: the dtype of mixed precision, or None. batch: clips of a pass. compiled: whether
    each part is compiled.
    """

    supernet: Supernet
    shapes: Mapping[Resolution, VideoShape]
    device: torch.device
    autocast: torch.dtype | None = None
    batch: int = 1
    compiled: bool = False

    @cached_property
    def inputs(self) -> Mapping[Resolution, DenoiserInput]:
        """Resolution -> a model's input."""
        domain = self.supernet.space.domain
        return {
            resolution: dummy_input(shape, domain, batch=self.batch, device=self.device)
            for resolution, shape in self.shapes.items()
        }

    def model(self, genome: np.ndarray) -> nn.Module:
        """Return an architecture as it is deployed: with weights of its own."""
        return self.supernet.extract(self.supernet.space.decode(genome)).eval()

    def modules(self, genome: np.ndarray, model: nn.Module) -> dict[str, nn.Module]:
        """Return the modules of an architecture's model by their names in the largest."""
        space = self.supernet.space
        arch = space.decode(genome)
        return {space.source(arch, name): module for name, module in model.named_modules()}

    def run(self, model: nn.Module, resolution: Resolution) -> None:
        """Run a model once."""
        self.supernet.space.denoise(model, self.inputs[resolution])

    @contextmanager
    def inference(self) -> Iterator[None]:
        """Disable gradients and use the precision inside the context."""
        mixed = torch.autocast(self.device.type, self.autocast, enabled=self.autocast is not None)
        with torch.no_grad(), mixed, _many_compilations() if self.compiled else nullcontext():
            yield


def _many_compilations() -> AbstractContextManager[object]:
    """Compile every size of a part for itself, of which there may be hundreds."""
    import torch._dynamo.config as dynamo

    return dynamo.patch(  # pyright: ignore[reportAttributeAccessIssue]
        recompile_limit=10**6, accumulated_recompile_limit=10**6, automatic_dynamic_shapes=False
    )


def timed(
    bench: Bench,
    genomes: Sequence[np.ndarray],
    modules: Sequence[str],
    rounds: int,
    on_visit: Callable[[], object] = lambda: None,
) -> dict[Resolution, list[list[Times]]]:
    """Time networks, all of them in each round; return resolution -> genome -> round -> times.

    modules: where passes are cut; those that a network does not have are left out. on_visit: called
    after each network of each round. Passes alternate with those of the largest network, and are
    scaled by how slow it is meanwhile, so that what else the machine does slows none of them more.
    """
    space = bench.supernet.space
    found: dict[Resolution, list[list[Times]]] = {
        resolution: [[] for _ in genomes] for resolution in bench.shapes
    }
    slow: dict[Resolution, list[list[float]]] = {
        resolution: [[] for _ in genomes] for resolution in bench.shapes
    }
    kept: dict[int, _Timed] = {}
    with bench.inference():
        largest = _Timed(bench, space.encode(space.largest), modules)
        for number in range(rounds):
            order = range(len(genomes)) if number % 2 else reversed(range(len(genomes)))
            for place in order:
                network = kept.get(place) or _Timed(bench, genomes[place], modules)
                if bench.compiled:  # which takes long
                    kept[place] = network
                for resolution in bench.shapes:
                    own, reference = _alternately(network, largest, resolution)
                    found[resolution][place].append(own)
                    slow[resolution][place].append(reference)
                on_visit()
    return {
        resolution: _without_drift(found[resolution], np.array(slow[resolution]))
        for resolution in bench.shapes
    }


def _alternately(network: _Timed, largest: _Timed, resolution: Resolution) -> tuple[Times, float]:
    """Return the times of a network's fastest pass, and those of the largest's in total."""
    pairs = [(network.run(resolution), largest.run(resolution)) for _ in range(1 + PASSES)][1:]
    own = min((pair[0] for pair in pairs), key=_total)
    return own, min(_total(pair[1]) for pair in pairs)


def _total(times: Times) -> float:
    return sum(times.values())


class _Timed:
    """A network whose passes are cut into parts."""

    def __init__(self, bench: Bench, genome: np.ndarray, modules: Sequence[str]) -> None:
        self._bench = bench
        self._model = bench.model(genome)
        self._clock = Clock(bench.device)
        named = bench.modules(genome, self._model)
        self._begin = cut(named, modules, self._clock.mark, compiled=bench.compiled)

    def run(self, resolution: Resolution) -> Times:
        """Run it once."""
        self._begin()
        self._clock.start()
        self._bench.run(self._model, resolution)
        return self._clock.read()


def _without_drift(times: list[list[Times]], reference: np.ndarray) -> list[list[Times]]:
    """Scale times to the machine's median speed.

    reference: the largest network's milliseconds meanwhile, `(genomes, rounds)`.
    """
    slowness = reference / np.median(reference)
    return [
        [
            {name: ms / slow for name, ms in each.items()}
            for each, slow in zip(rounds, by_round, strict=True)
        ]
        for rounds, by_round in zip(times, slowness, strict=True)
    ]


def median_totals(times: Sequence[Sequence[Times]]) -> np.ndarray:
    """Return the median milliseconds of each genome's whole pass: float64, shape `(n,)`."""
    return np.array([statistics.median(map(_total, rounds)) for rounds in times])
