"""DiffusersModelSpace: a model class of diffusers, some of whose settings are choices."""

from __future__ import annotations

import inspect
from abc import abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise
from typing import Any, ClassVar

import numpy as np
import torch
from pydantic import Field
from torch import nn

from nasvid.architecture import Architecture, AtLeast, Choice
from nasvid.costs import METRICS, Costs, built_on_meta
from nasvid.errors import nearest
from nasvid.layout import Layout, Part
from nasvid.plugins.config import Config
from nasvid.shapes import DenoiserInput, Domain, VideoShape
from nasvid.slices import Segments, SliceRules
from nasvid.space import SearchSpace
from nasvid.supernet import check_ends
from nasvid_spaces.diffusers_model.choices import Blocks, Options, Target, targets
from nasvid_spaces.diffusers_model.propose import proposed_choices

Settings = Mapping[str, Any]
"""A model's complete config: the arguments of its class."""


FEW = 2
"""Blocks of the models from which the costs of longer ones are counted: a first and a last."""
MOST, MOST_LAYERS = 1 << 20, 512
"""Upper bounds of a model's settings, and of its number of layers."""


@dataclass(frozen=True, slots=True)
class Dimension:
    """A dimension of one tensor that is smaller in an architecture than in the largest.

    kept, size: entries in the architecture and in the largest. settings, largest: of the two.
    """

    tensor: str
    dim: int
    kept: int
    size: int
    settings: Settings
    largest: Settings

    def equal_parts(self, count: int) -> Segments:
        """Return the slice of `count` parts of equal size, side by side: a prefix of each."""
        return Segments.prefixes([self.kept // count] * count, [self.size // count] * count)


def check_patches(shape: VideoShape, frames: int, height: int, width: int) -> None:
    """Check that patches of this size tile a video.

    Raises:
        ValueError: they do not.
    """
    for name, patch in {"frames": frames, "height": height, "width": width}.items():
        side = getattr(shape, name)
        if side % patch:
            raise ValueError(f"{name} {side} is not a multiple of the patch, {patch}")


class DiffusersModelConfig(Config):
    """Options that spaces over diffusers' classes share."""

    config: dict[str, Any] = Field(default_factory=dict)
    """Arguments of the model's class in diffusers. Those left out are taken from the model that
    `supernet.init_from` names, or else from the class's defaults."""
    choices: dict[str, Options | Blocks] = Field(min_length=1, max_length=64)
    """Setting -> its options, ascending. `block_out_channels.0` is the first entry of a list, and
    `block_out_channels.2+3` are two entries that are always equal. `num_layers: {keep: 4}` lets
    subnets have any of the blocks, but at least 4; `num_layers: [4, 6]` the first 4 or 6."""

    @property
    def options(self) -> Mapping[str, tuple[int, ...]]:
        """The choices among numbers."""
        return {name: of for name, of in self.choices.items() if not isinstance(of, Blocks)}

    @property
    def optional(self) -> Mapping[str, Blocks]:
        """Setting -> how many of the blocks that it counts must remain."""
        return {name: of for name, of in self.choices.items() if isinstance(of, Blocks)}


class DiffusersModelSpace(SearchSpace[DiffusersModelConfig]):
    """The architectures that one diffusers class builds as some of its settings vary.

    `build` returns that very class with its own config, so an extracted subnet is a stock model,
    which `from_pretrained` and the pipelines of diffusers load without nasvid.

    To turn a class of diffusers into a space, write a subclass that defines which of its settings
    can be choices, which follow from the data, what is kept of dimensions made of several parts,
    and how the model is called.
    """

    model: ClassVar[str]
    """The class's name in diffusers."""
    searchable: ClassVar[tuple[str, ...]]
    """Settings that can be choices, because models with less are slices of models with more."""
    refused: ClassVar[Mapping[str, str]] = {}
    """Settings that cannot be choices, though it may seem so -> the reason."""
    blocks: ClassVar[Mapping[str, tuple[str, ...]]] = {}
    """Settings that count blocks -> the lists of blocks in the model, which are alike, run in their
    order, and may lack any block. Where there are several lists, a block is the entry of each."""

    @classmethod
    def inherit(
        cls, config: DiffusersModelConfig, model: Mapping[str, Any]
    ) -> DiffusersModelConfig:
        """Return the config, completed by the model's settings.

        Settings that this version of the class does not have are ignored, as in diffusers.

        Raises:
            ValueError: the model is of another class.
        """
        if model.get("_class_name", cls.model) != cls.model:
            raise ValueError(
                f"it holds a model of class {model['_class_name']}, but the space's is {cls.model}"
            )
        known = inspect.signature(cls._class().__init__).parameters
        theirs = {
            key: value for key, value in model.items() if key in known and key not in config.options
        }
        return config.model_copy(update={"config": {**theirs, **config.config}})

    @classmethod
    def propose(
        cls, model: Mapping[str, Any], domain: Domain, keep: float
    ) -> DiffusersModelConfig | None:
        """Return choices among fewer blocks and narrower layers of a model of the class."""
        if model.get("_class_name") != cls.model:
            return None
        return cls.choosing(proposed_choices(cls, model, domain, keep))

    @classmethod
    def choosing(cls, choices: Mapping[str, Options | Blocks]) -> DiffusersModelConfig:
        """Return a config of nothing but choices."""
        made: Any = cls.Config
        return made(choices=choices)

    @classmethod
    def narrowed(cls, settings: Settings) -> Sequence[str]:
        """Return the settings that `propose` makes choices of, besides those that count blocks.

        By default all that can be; without those whose smaller values mean something else to the
        weights of a trained model.
        """
        del settings
        return [setting for setting in cls.searchable if setting not in cls.blocks]

    @classmethod
    def multiple(cls, setting: str, settings: Settings) -> int:
        """Return what the options that `propose` gives a setting are multiples of."""
        del setting, settings
        return 1

    @classmethod
    def complete(cls, model: Mapping[str, Any]) -> dict[str, Any]:
        """Return a model's settings, with the defaults of its class."""
        known = inspect.signature(cls._class().__init__).parameters
        return {key: model.get(key, known[key].default) for key in known if key != "self"}

    @classmethod
    def _class(cls) -> type[nn.Module]:
        import diffusers

        return getattr(diffusers, cls.model)

    def __init__(self, config: DiffusersModelConfig, domain: Domain) -> None:
        self.model_class = self._class()
        known = inspect.signature(self.model_class.__init__).parameters
        self._defaults = {key: known[key].default for key in known if key != "self"}
        super().__init__(config, domain)
        self.check(self.settings(self.largest))
        check_ends(self)

    @abstractmethod
    def derived(self, settings: Settings) -> Settings:
        """Return the settings that follow from the domain and the other settings."""

    @abstractmethod
    def denoise(self, model: nn.Module, x: DenoiserInput) -> torch.Tensor:
        """Run a model: `b c t h w` noisy in, `b c t h w` prediction out."""

    def kept(self, at: Dimension) -> Segments | None:
        """Return what an architecture keeps of a dimension; None for the leading entries."""
        del at

    def check(self, settings: Settings) -> None:
        """Raise ValueError with the reason if the recipe's architectures cannot share weights.

        settings: of the largest architecture.
        """

    def make_choices(self) -> Sequence[Choice]:
        """Return the recipe's choices.

        Raises:
            ValueError: a setting is unknown, follows from other settings or cannot be a choice.
        """
        unknown = [key for key in self.config.config if key not in self._defaults]
        if unknown:
            key = unknown[0]
            raise ValueError(
                f"config.{key}: {self.model} has no such setting{nearest(key, self._defaults)}"
            )
        for key, value in {**self.config.config, **self.config.options}.items():
            _check_size(key, value)
        choices = [Choice(name, self._options(name)) for name in self.config.options]
        for setting in self.config.optional:
            choices += [Choice(name, (False, True)) for name in self.switches(setting)]
        self._check_driven_once()
        self._check_not_derived()
        return choices

    def make_rules(self) -> Sequence[AtLeast]:
        """Return how many blocks remain; the first and the last go last."""
        return [
            AtLeast(tuple(names[i] for i in spread(len(names))), blocks.keep)
            for setting, blocks in self.config.optional.items()
            for names in [self.switches(setting)]
        ]

    def layout(self) -> Layout:
        """Return a row for each setting that is a choice, and for each list of blocks."""
        rows = [self.part(name) for name in self.config.options]
        for setting in self.config.optional:
            labels = {name: f"block {i}" for i, name in enumerate(self.switches(setting))}
            rows.append(Part(self.blocks[setting][0].replace("_", " "), labels))
        return Layout(tuple(rows))

    def part(self, choice: str) -> Part:
        """Return the part of the picture that shows a choice."""
        return Part(choice.replace("_", " "), {choice: ""})

    def settings(self, arch: Architecture) -> dict[str, Any]:
        """Return the config of an architecture's model."""
        return self._complete(dict(arch))

    def build(self, arch: Architecture) -> nn.Module:
        """Return the stock model of an architecture."""
        return self.model_class(**self.settings(arch))

    def source(self, arch: Architecture, name: str) -> str:
        """Return the largest model's name of a tensor, whose blocks may have other numbers."""
        place, _, rest = name.partition(".")
        number, dot, rest = rest.partition(".")
        for setting in self.config.optional:
            if place in self.blocks[setting] and number.isdigit():
                names = self.switches(setting)
                kept = [i for i, switch in enumerate(names) if arch[switch]]
                return f"{place}.{kept[int(number)]}{dot}{rest}"
        return name

    def counted_costs(
        self, genomes: np.ndarray, shape: VideoShape, *, device: str = "meta"
    ) -> Costs:
        """Count the costs of n genomes; models of the same settings are counted once."""
        genomes = self.canonical(genomes)
        for setting in self.config.optional:
            columns = [self._position[name] for name in self.switches(setting)]
            count = genomes[:, columns].sum(axis=1, keepdims=True)
            genomes[:, columns] = np.arange(len(columns)) < count
        return super().counted_costs(genomes, shape, device=device)

    def counted(self, arch: Architecture, shape: VideoShape, device: str = "meta") -> Costs:
        """Count the costs of an architecture from models of few blocks, which are all alike.

        Of a list with more than `FEW`, what one more adds is counted, and added for each further.
        """
        settings = self.settings(arch)
        more = {name: settings[name] - FEW for name in self.blocks if settings[name] > FEW}
        few = settings | dict.fromkeys(more, FEW)

        def costs(settings: Settings) -> Costs:
            return self.counted_model(lambda: self.model_class(**settings), shape, device)

        base = costs(few)
        total = {metric: base[metric].copy() for metric in METRICS}
        for name, times in more.items():
            longer = costs(few | {name: FEW + 1})
            for metric in METRICS:
                total[metric] += times * (longer[metric] - base[metric])
        return Costs(**total)

    def feature_points(self, arch: Architecture) -> dict[str, str]:
        """Return each block.

        Where blocks are left out behind it, the hidden states after a block are those that the next
        one kept takes, and so are compared with what it takes in the largest (as at the ends of
        stages in BK-SDM, arXiv 2305.15798, section 3.3).
        """
        points: dict[str, str] = {}
        settings, largest = self.settings(arch), self.settings(self.largest)
        for setting, (*before, last) in self.blocks.items():
            names = (self.source(arch, f"{last}.{i}") for i in range(settings[setting]))
            kept = [int(name.rpartition(".")[2]) for name in names]
            for i, (at, after) in enumerate(pairwise([*kept, largest[setting]])):
                points |= {f"{name}.{i}": f"{name}.{at}" for name in before}
                points[f"{last}.{i}"] = f"{last}.{after - 1}"
        return points

    def slice_rules(self, arch: Architecture) -> SliceRules:
        """Return the slices of the dimensions that are made of several parts."""
        settings, largest = self.settings(arch), self.settings(self.largest)
        rules: dict[str, dict[int, Segments]] = {}
        for name, shape in self.shapes(arch).items():
            full = self.full_shapes.get(self.source(arch, name), ())
            if len(full) != len(shape):
                continue  # no slice: the supernet names the tensor and says so
            for dim, (kept, size) in enumerate(zip(shape, full, strict=True)):
                if kept < size:
                    rule = self.kept(Dimension(name, dim, kept, size, settings, largest))
                    if rule is not None:
                        rules.setdefault(name, {})[dim] = rule
        return rules

    @cached_property
    def full_shapes(self) -> Mapping[str, torch.Size]:
        """Parameter of the largest architecture -> its shape."""
        return self.shapes(self.largest)

    def shapes(self, arch: Architecture) -> dict[str, torch.Size]:
        """Return the shape of each parameter of an architecture's model."""
        model = built_on_meta(lambda: self.build(arch))
        return {name: parameter.shape for name, parameter in model.named_parameters()}

    def _options(self, name: str) -> tuple[int, ...]:
        """Return the options of a choice, after checking that its settings can be one."""
        options = self.config.options[name]
        for target in targets(name):
            self._check_searchable(name, target)
        if not options:
            raise ValueError(f"choices.{name} is empty; write at least one option")
        if list(options) != sorted(set(options)):
            raise ValueError(f"choices.{name}: {list(options)} are not ascending")
        return options

    def _check_searchable(self, name: str, target: Target) -> None:
        key, index = target[0].partition(".")[0], target[1]
        if key in self.refused:
            raise ValueError(f"choices.{name}: {self.refused[key]}")
        if key not in self.searchable:
            of = ", ".join(self.searchable)
            raise ValueError(f"choices.{name} cannot be searched; {self.model} allows {of}")
        default = {**self._defaults, **self.config.config}[key]
        is_list = isinstance(default, list | tuple)
        entries = [(key, i) for i in range(len(default))] if is_list else [(key, None)]
        if (target[0], index) not in entries:
            names = [key if i is None else f"{key}.{i}" for key, i in entries]
            raise ValueError(f"choices.{name} is not a choice; use one of {', '.join(names)}")

    def switches(self, setting: str) -> list[str]:
        """Return the names of the on/off choices of the blocks that a setting counts.

        Raises:
            ValueError: the setting counts no blocks of which any can be left out, or not enough.
        """
        keep = self.config.optional[setting].keep
        if setting not in self.blocks:
            can = f"only {' and '.join(self.blocks)} can" if self.blocks else "no setting can"
            raise ValueError(
                f"choices.{setting}: {{keep: {keep}}} lets blocks be left out, which {can} of "
                f"{self.model}; write a list of options"
            )
        count = {**self._defaults, **self.config.config}[setting]
        if type(count) is not int:
            raise ValueError(f"config.{setting} must be a whole number, not {count!r:.80}")
        if keep >= count:
            raise ValueError(
                f"choices.{setting}: of {count} blocks, {keep} are to be kept, so none can be left "
                f"out; config.{setting} is the number of blocks of the largest model"
            )
        return [f"{self.blocks[setting][0]}.{i}" for i in range(count)]

    def _check_driven_once(self) -> None:
        driven: dict[Target, str] = {}
        for name in self.config.options:
            for target in targets(name):
                other = driven.setdefault(target, name)
                if other != name or targets(name).count(target) > 1:
                    setting = target[0] if target[1] is None else f"{target[0]}.{target[1]}"
                    raise ValueError(f"choices.{name}: {setting} is driven twice")

    def _check_not_derived(self) -> None:
        most = {name: options[-1] for name, options in self.config.options.items()}
        settings = self._complete(most)
        for key in self.derived(settings):
            if self.config.config.get(key, settings[key]) != settings[key]:
                raise ValueError(
                    f"config.{key} is {self.config.config[key]}, but {settings[key]} follows from "
                    "the recipe's other settings (its video, VAE and text); change those, or "
                    "remove it if the recipe has it, and not just the model of supernet.init_from"
                )

    def _complete(self, chosen: Mapping[str, Any]) -> dict[str, Any]:
        settings = {**self._defaults, **self.config.config}
        for name in self.config.options:
            for key, index in targets(name):
                if index is None:
                    settings[key] = chosen[name]
                else:
                    entries = list(settings[key])
                    entries[index] = chosen[name]
                    settings[key] = entries
        for setting in self.config.optional:
            settings[setting] = sum(chosen.get(name, True) for name in self.switches(setting))
        return {**settings, **self.derived(settings)}


def spread(count: int) -> list[int]:
    """Return the positions 0 to `count - 1`: the two ends, then always the middle of a gap.

    The leading positions are those of the blocks that the smallest model has: of a transformer the
    first and the last matter most, and of the others no neighbours are left out first.
    """
    ends = [0, count - 1][: min(count, 2)]
    gaps, order = [(0, count - 1)], ends
    while gaps:
        start, stop = gaps.pop(0)
        middle = (start + stop) // 2
        if start < middle < stop:
            order.append(middle)
            gaps += [(start, middle), (middle, stop)]
    return order


def _check_size(key: str, value: Any) -> None:
    """Reject absurd numbers before a model is built: a billion layers would take forever."""
    if isinstance(value, list | tuple):
        for each in value:
            _check_size(key, each)
    elif isinstance(value, dict):
        for name, each in value.items():
            _check_size(f"{key}.{name}", each)
    elif isinstance(value, int | float):
        most = MOST_LAYERS if "layer" in key else MOST
        if not abs(value) <= most:  # nan too
            raise ValueError(f"{key}: {value:g} is too large; use at most {most}")
