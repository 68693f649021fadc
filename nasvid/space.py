"""SearchSpace: a finite product of ordered choices, and how to build each architecture in it."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Container, Mapping, Sequence
from dataclasses import replace
from difflib import get_close_matches
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from nasvid.architecture import Architecture, AtLeast, Choice, Option
from nasvid.errors import UserError
from nasvid.host.words import architectures, counted
from nasvid.layout import Layout
from nasvid.plugins.plugin import C, Plugin
from nasvid.plugins.section import PluginSection
from nasvid.shapes import DenoiserInput, Domain, VideoShape

if TYPE_CHECKING:
    import torch
    from torch import nn

    from nasvid.costs import Costs
    from nasvid.slices import SliceRules
    from nasvid.units import Units

Bounds = tuple[float, float]
Within = Mapping[str, Bounds]
"""Cost name -> (lowest, highest): absolute, or fractions of the largest's if in [0, 1]."""

PATHS = 64
"""Random paths tried before a cost range counts as unreachable."""


class SearchSpace(Plugin[C], ABC):
    """A search space: choices, and a function from architecture to plain module.

    An author writes `make_choices`, `build` and, where a prefix of a dimension is not the right
    slice, `slice_rules`; everything else is derived. `costs` may be overridden by analytic,
    vectorised formulas (the conformance suite in `nasvid.testing` checks them against counting).

    A genome is an architecture as a row of option indices (int64, one per choice); functions on
    genomes take and return arrays of shape `(n, choices)`.
    """

    model_module: ClassVar[str] = ""
    """The module of the models' class, if exports can carry it: the class is a ModelMixin and a
    ConfigMixin of diffusers, and the module imports nothing but packages that are there where
    diffusers is, einops, and names of its own package."""

    @classmethod
    def inherit(cls, config: C, model: Mapping[str, Any]) -> C:  # pyright: ignore[reportGeneralTypeIssues]
        """Return a recipe's config, completed from an existing model's; unchanged by default.

        model: the `config.json` of the model that `supernet.init_from` names.

        Raises:
            ValueError: it is the config of another kind of model.
        """
        del model
        return config

    @classmethod
    def propose(cls, model: Mapping[str, Any], domain: Domain, keep: float) -> C | None:
        """Return options for a space from an existing model's size down; None if it is not of ours.

        `nasvid init` asks every space. What `inherit` adds from the model can be left out.

        model: the `config.json` of a pipeline's denoiser. domain: of that pipeline. keep: the
        smallest architecture has at least this fraction of the model's parameters, and not much
        more.

        Raises:
            ValueError: it is a model of this space, but cannot be trained, or not be made smaller.
        """
        del model, domain, keep
        return None

    def __init__(self, config: C, domain: Domain) -> None:
        super().__init__(config)
        self.domain = domain
        made: Any = self.make_choices()
        if not isinstance(made, list | tuple) or not all(isinstance(c, Choice) for c in made):
            raise ValueError(f"make_choices() must return a list of Choice, not {made!r:.80}")
        self.choices: tuple[Choice, ...] = tuple(made)
        self._position = {choice.name: i for i, choice in enumerate(self.choices)}
        self._places = tuple((choice.name, _places(choice)) for choice in self.choices)
        self._worth: dict[int, float] = {}
        self._bias = 0.0
        self._counted: dict[tuple[bytes, VideoShape, str], Costs] = {}
        if len(self._position) != len(self.choices):
            raise ValueError("Two choices have the same name")
        for i, choice in enumerate(self.choices):
            if choice.requires is not None:
                gate = self._position.get(choice.requires, i)
                if gate >= i or self.choices[gate].options != (False, True):
                    raise ValueError(
                        f"Choice '{choice.name}' requires '{choice.requires}', "
                        "which is not an on/off choice before it"
                    )
        self._gates = self._gated_by_depth()
        self.rules: tuple[AtLeast, ...] = tuple(self.make_rules())
        self._check_rules()

    def _gated_by_depth(self) -> list[tuple[list[int], list[int]]]:
        """Return (choices that require another, those that they require), gates before gated."""
        depth: dict[str | None, int] = {None: 0}
        for choice in self.choices:
            depth[choice.name] = depth[choice.requires] + (choice.requires is not None)
        by_depth: list[tuple[list[int], list[int]]] = [([], []) for _ in range(max(depth.values()))]
        for choice in self.choices:
            if choice.requires is not None:
                gated, gates = by_depth[depth[choice.name] - 1]
                gated.append(self._position[choice.name])
                gates.append(self._position[choice.requires])
        return by_depth

    def _check_rules(self) -> None:
        ruled = [name for rule in self.rules for name in rule.choices]
        free = {c.name for c in self.choices if c.options == (False, True) and c.requires is None}
        for name in ruled:
            if name not in free:
                raise ValueError(f"A rule names '{name}', which is not a free on/off choice")
            if ruled.count(name) > 1:
                raise ValueError(f"Two rules name choice '{name}'")

    @abstractmethod
    def make_choices(self) -> Sequence[Choice]:
        """Return the choices, each after the one that it requires."""

    @abstractmethod
    def build(self, arch: Architecture) -> nn.Module:
        """Return the plain module of an architecture, freshly initialised.

        Parameters of the same name have the same meaning in every architecture; a parameter of a
        smaller one is a slice of the largest's.
        """

    def make_rules(self) -> Sequence[AtLeast]:
        """Return how many of some on/off choices are on at least; by default all may be off."""
        return ()

    def slice_rules(self, arch: Architecture) -> SliceRules:
        """Return the ranges kept, by parameter and dimension, where they are not a prefix.

        Parameters have the names that they have in the architecture's own model.
        """
        del arch
        return {}

    def source(self, arch: Architecture, name: str) -> str:
        """Return the name in the largest architecture of a tensor or module of `arch`.

        By default it is the same. A model that numbers its blocks anew when one is left out has
        other names: `blocks.1.weight` of a model without block 1 is the largest's
        `blocks.2.weight`. Two names of one model must not have the same source.
        """
        del arch
        return name

    def interchangeable(self) -> Sequence[Units]:
        """Return which parts of the largest architecture can be permuted: channels, heads etc.

        In an existing model they are sorted by importance before its weights are shared, so that
        smaller subnets keep the most important ones (`Supernet.load_pretrained`).
        """
        return ()

    def feature_points(self, arch: Architecture) -> Mapping[str, str]:
        """Return where subnets are compared with a teacher: module of `arch` -> of the largest.

        The outputs of the two modules mean the same: the subnet's is the leading part of what the
        largest computes. `training.teacher` needs them; by default there are none.
        """
        del arch
        return {}

    def denoise(self, model: nn.Module, x: DenoiserInput) -> torch.Tensor:
        """Run a model of this space: `b c t h w` noisy in, `b c t h w` prediction out."""
        return model(x.sample, x.timestep, x.context, x.context_mask, x.fps)

    def check_shape(self, shape: VideoShape) -> None:
        """Raise ValueError with the reason if the space's models cannot take this shape."""

    def layout(self) -> Layout:
        """Return how architectures are drawn; each choice belongs to one part.

        By default there is one row per group of choices whose names agree up to the last dot.
        """
        return Layout.by_prefix(self.choices)

    # Architectures and genomes

    @property
    def smallest(self) -> Architecture:
        """The architecture with each choice's first option."""
        return self.decode(np.zeros(len(self.choices), dtype=np.int64))

    @property
    def largest(self) -> Architecture:
        """The architecture with each choice's last option: the supernet's own."""
        return self.decode(np.array([len(choice.options) - 1 for choice in self.choices]))

    @property
    def size(self) -> int:
        """Number of distinct architectures: choices without effect are not counted."""
        ruled = {name for rule in self.rules for name in rule.choices}
        return math.prod(map(self._count_ruled, self.rules)) * self._count_architectures(
            None, besides=ruled
        )

    def _count_architectures(self, gate: str | None, besides: Container[str] = ()) -> int:
        total = 1
        for choice in self.choices:
            if choice.requires == gate and choice.name not in besides:
                if choice.options == (False, True):
                    total *= 1 + self._count_architectures(choice.name)
                else:
                    total *= len(choice.options)
        return total

    def _count_ruled(self, rule: AtLeast) -> int:
        """Return the number of ways to choose what a rule names, and what requires it."""
        ways = [1]  # by the number of choices that are on
        for name in rule.choices:
            on = self._count_architectures(name)
            ways = [a + on * b for a, b in zip([*ways, 0], [0, *ways], strict=True)]
        return sum(ways[rule.count :])

    def architecture(self, options: Mapping[str, Option]) -> Architecture:
        """Validate a mapping from choice to option and return its canonical architecture.

        Raises:
            ValueError: a choice is missing or unknown, or an option is not one of its choice.
        """
        ((arch,), _) = self.architectures([options])
        return arch

    def architectures(
        self, mappings: Sequence[Mapping[str, Option]]
    ) -> tuple[list[Architecture], np.ndarray]:
        """Validate mappings from choice to option; return their canonical architectures, genomes.

        Raises:
            ValueError: as `architecture`.
        """
        if not mappings:
            return [], np.zeros((0, len(self.choices)), dtype=np.int64)
        exact = [
            self._exactly(each) if len(each) == len(self.choices) else None for each in mappings
        ]
        given = [
            self._validated(mapping) if positions is None else positions
            for mapping, positions in zip(mappings, exact, strict=True)
        ]
        genomes = self.canonical(np.array(given))
        return [
            mapping
            if row == positions and isinstance(mapping, Architecture)
            else self._of_canonical(row)
            for mapping, positions, row in zip(mappings, exact, genomes.tolist(), strict=True)
        ], genomes

    def _validated(self, options: Mapping[str, Option]) -> list[int]:
        """Return the positions of a mapping's options."""
        for name in options:
            if name not in self._position:
                near = get_close_matches(name, self._position, n=1)
                hint = f"; did you mean '{near[0]}'?" if near else ""
                raise ValueError(f"'{name}' is not a choice of this space{hint}")
        missing = [choice.name for choice in self.choices if choice.name not in options]
        if missing:
            raise ValueError(f"Choice '{missing[0]}' has no option")
        return self.encode(options).tolist()

    def _exactly(self, options: Mapping[str, Option]) -> list[int] | None:
        """Return the positions of options; None if one is not there with the same type."""
        known = options.options if isinstance(options, Architecture) else options
        try:
            return [places[type(known[name]), known[name]] for name, places in self._places]
        except (KeyError, TypeError):
            return None

    def encode(self, arch: Mapping[str, Option]) -> np.ndarray:
        """Return the genome of an architecture: int64, one option index per choice."""
        found = self._exactly(arch)
        if found is None:  # an option that only equals one of them, or is none
            found = [choice.index(arch[choice.name]) for choice in self.choices]
        return np.array(found)

    def decode(self, genome: np.ndarray) -> Architecture:
        """Return the canonical architecture of one genome."""
        return self._of_canonical(self.canonical(np.asarray(genome)[None])[0].tolist())

    def _of_canonical(self, row: Sequence[int]) -> Architecture:
        return Architecture(
            {choice.name: choice.options[i] for choice, i in zip(self.choices, row, strict=True)}
        )

    def canonical(self, genomes: np.ndarray) -> np.ndarray:
        """Return genomes that follow the rules; a choice without effect has its first option."""
        genomes = np.array(genomes, dtype=np.int64)
        for rule in self.rules:
            columns = [self._position[name] for name in rule.choices]
            off = genomes[:, columns] == 0
            lacking = rule.count - (~off).sum(axis=1, keepdims=True)
            genomes[:, columns] |= off & (off.cumsum(axis=1) <= lacking)
        for gated, gates in self._gates:
            genomes[:, gated] *= genomes[:, gates]
        return genomes

    def prefer(self, worth: Mapping[str, float], bias: float) -> None:
        """Let random architectures have some on/off choices on more often than others.

        worth: name of an on/off choice -> its rank in (0, 1), larger if it matters more; those
        without a rank are as before. bias: 0 for no preference; 1 so that what is on is always
        worth more than what is off. Rules of the space turn on what is worth most.
        """
        self._worth = {self._position[name]: rank for name, rank in worth.items()}
        self._bias = bias
        self.rules = tuple(
            replace(rule, choices=tuple(sorted(rule.choices, key=lambda n: -worth.get(n, 0))))
            for rule in self.rules
        )

    # Costs

    @property
    def has_cost_formula(self) -> bool:
        """Whether `costs` is the space's own formula rather than counting each architecture.

        A formula gives the costs of thousands of architectures at once; counting takes seconds for
        a few.
        """
        return type(self).costs is not SearchSpace.costs

    def costs(self, genomes: np.ndarray, shape: VideoShape) -> Costs:
        """Return the costs of n genomes for one clip of `shape`, counted by default.

        Raises:
            NoValuesError: the models cannot run on the `meta` device.
        """
        return self.counted_costs(genomes, shape)

    def counted_costs(
        self, genomes: np.ndarray, shape: VideoShape, *, device: str = "meta"
    ) -> Costs:
        """Count the costs of n genomes for one clip of `shape`, and cache them.

        device: where models run once; on `meta` nothing is allocated or computed.
        """
        from nasvid.costs import Costs

        rows = []
        for genome in self.canonical(genomes):
            key = (genome.tobytes(), shape, device)
            if key not in self._counted:
                self._counted[key] = self.counted(self.decode(genome), shape, device)
            rows.append(self._counted[key])
        return Costs(
            params=np.concatenate([row.params for row in rows]),
            macs=np.concatenate([row.macs for row in rows]),
            activation_bytes=np.concatenate([row.activation_bytes for row in rows]),
        )

    def counted(self, arch: Architecture, shape: VideoShape, device: str = "meta") -> Costs:
        """Count the costs of one architecture by building and running it."""
        return self.counted_model(lambda: self.build(arch), shape, device)

    def counted_model(
        self, build: Callable[[], nn.Module], shape: VideoShape, device: str = "meta"
    ) -> Costs:
        """Count the costs of one model of this space, as `build` returns it."""
        from nasvid.costs import count, dummy_input

        inputs = dummy_input(shape, self.domain, device=device)
        return count(build, lambda model: self._checked_prediction(model, inputs), device=device)

    def _checked_prediction(self, model: nn.Module, inputs: DenoiserInput) -> None:
        found: Any = self.denoise(model, inputs)
        if getattr(found, "shape", None) != inputs.sample.shape:
            shape = tuple(found.shape) if hasattr(found, "shape") else type(found).__name__
            raise UserError(
                f"denoise() must return a tensor of the video's shape, "
                f"{tuple(inputs.sample.shape)}, but {type(model).__name__} gives {shape}"
            )

    def cost(self, arch: Architecture, metric: str, shape: VideoShape) -> int:
        """Return one cost of one architecture."""
        from nasvid.costs import Costs

        found: Any = self.costs(self.encode(arch)[None], shape)
        if not isinstance(found, Costs):
            raise UserError(f"costs() must return Costs, not {found!r:.80}")
        return int(found[metric][0])

    # Sampling

    def random_genomes(self, rng: np.random.Generator, n: int) -> np.ndarray:
        """Return n genomes, each option drawn uniformly but for what the space prefers."""
        sizes = np.array([len(choice.options) for choice in self.choices])
        genomes = rng.integers(0, sizes, size=(n, len(sizes)))
        if self._worth and self._bias:
            columns = list(self._worth)
            chance = 0.5 + self._bias * (np.array(list(self._worth.values())) - 0.5)
            genomes[:, columns] = rng.random((n, len(columns))) < chance
        return self.canonical(genomes)

    def sample(
        self,
        rng: np.random.Generator,
        *,
        within: Within | None = None,
        shape: VideoShape | None = None,
    ) -> Architecture:
        """Draw one architecture: uniformly over options, or uniformly over a range of cost.

        within: one cost name and its bounds; absolute, or fractions of the largest's cost.
        shape: of the clip that costs refer to; required with `within`.

        With `within`, a target is drawn uniformly from the reachable part of the range; then a
        random path leads from the smallest to the largest architecture, one option of one choice
        at a time, and the architecture on it nearest the target is found by bisection (costs rise
        along the path).

        Raises:
            ValueError: no architecture lies in the range; the message gives the reachable range.
        """
        if within is None:
            return self.decode(self.random_genomes(rng, 1)[0])
        if shape is None or len(within) != 1:
            raise ValueError("`within` needs a shape and exactly one cost")
        ((metric, bounds),) = within.items()
        ends = np.stack([self.encode(self.smallest), self.encode(self.largest)])
        floor, top = (int(c) for c in self.costs(ends, shape)[metric])
        low, high = (b * top if 0 <= b <= 1 else b for b in bounds)
        seen: list[int] = [floor, top]
        if low <= top and high >= floor and low <= high:
            target = rng.uniform(max(low, floor), min(high, top))
            for _ in range(PATHS):
                path = self.random_path(rng)
                for cost, genome in self._nearest(path, metric, shape, target):
                    if low <= cost <= high:
                        return self.decode(genome)
                    seen.append(cost)
        below = max((c for c in seen if c < low), default=None)
        above = min((c for c in seen if c > high), default=None)
        nearest = " and ".join(f"{c:,}" for c in (below, above) if c is not None)
        raise ValueError(
            f"No architecture has {metric} between {low:,.0f} and {high:,.0f} at {shape}; "
            f"this space ranges from {floor:,} to {top:,}, nearest found: {nearest}"
        )

    def smallest_above(
        self, rng: np.random.Generator, metric: str, fraction: float, shape: VideoShape
    ) -> Architecture:
        """Return a random architecture whose cost is just above a fraction of the largest's."""
        target = fraction * self.cost(self.largest, metric, shape)
        pair = self._nearest(self.random_path(rng), metric, shape, target)
        _, genome = min((entry for entry in pair if entry[0] >= target), key=lambda entry: entry[0])
        return self.decode(genome)

    def random_path(self, rng: np.random.Generator) -> np.ndarray:
        """Return genomes from smallest to largest, `(steps + 1, choices)`, one step up at a time.

        Each choice rises within its own random stretch of the path, so that the middles of
        different paths differ in composition (wide with few blocks, narrow with many).
        """
        tops = np.array([len(choice.options) - 1 for choice in self.choices], dtype=np.int64)
        column = np.repeat(np.arange(len(tops)), tops)
        step = np.arange(len(column)) - np.repeat(tops.cumsum() - tops, tops) + 1
        start, stop = np.sort(rng.random((len(tops), 2)), axis=1)[column].T.copy()
        if self._worth and self._bias:  # what is worth more comes earlier
            known = np.isin(column, list(self._worth))
            worth = np.array([self._worth[i] for i in column[known]])
            drawn = rng.random(len(worth))
            stop[known] = (1 - self._bias) * drawn + self._bias * (1 - worth)
            start[known] = stop[known]
        times = start + (stop - start) * step / tops[column]
        path = np.zeros((len(column) + 1, len(tops)), dtype=np.int64)
        path[np.arange(1, len(path)), column[np.argsort(times, kind="stable")]] = 1
        return self.canonical(path.cumsum(axis=0))

    def _nearest(
        self, path: np.ndarray, metric: str, shape: VideoShape, target: float
    ) -> list[tuple[int, np.ndarray]]:
        """Return the two neighbours on a path that enclose a target cost, nearest first."""
        cost = {}

        def at(i: int) -> int:
            if i not in cost:
                cost[i] = int(self.costs(path[i : i + 1], shape)[metric][0])
            return cost[i]

        low, high = 0, len(path) - 1
        while high - low > 1:
            middle = (low + high) // 2
            low, high = (middle, high) if at(middle) <= target else (low, middle)
        both = [(at(low), path[low]), (at(high), path[high])]
        return sorted(both, key=lambda pair: abs(pair[0] - target))

    def mutate(self, rng: np.random.Generator, genomes: np.ndarray, rate: float) -> np.ndarray:
        """Return genomes in which each option is redrawn with probability `rate`."""
        redrawn = self.random_genomes(rng, len(genomes))
        return self.canonical(np.where(rng.random(genomes.shape) < rate, redrawn, genomes))

    def cross(self, rng: np.random.Generator, a: np.ndarray, b: np.ndarray) -> np.ndarray:
        """Return genomes that take each option from `a` or `b` with equal probability."""
        return self.canonical(np.where(rng.random(a.shape) < 0.5, a, b))

    def describe(self) -> str:
        """Return one line: how many choices and how many architectures."""
        return f"{counted(len(self.choices), 'choice')}, {architectures(self.size)}"


def _places(choice: Choice) -> dict[tuple[type, Option], int]:
    """Return the position of each option, by its type as well: on is not 1, and 1.0 neither."""
    return {(type(option), option): place for place, option in enumerate(choice.options)}


class SpaceSection(PluginSection):
    """The search space and its config."""

    kind = "spaces"

    def make(self, domain: Domain) -> SearchSpace:  # pyright: ignore[reportIncompatibleMethodOverride]
        """Create the space for a domain: what its models denoise and are conditioned on."""
        return super().make(domain)
