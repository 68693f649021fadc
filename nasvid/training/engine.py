"""What updates the shared weights from their gradients, on one process or many.

An `Engine` is the plug-in: made from its config alone, it reports what it needs. `Engine.start`
returns the `Updater` that trains.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from nasvid.distributed.launch import Job
from nasvid.distributed.ranks import Ranks
from nasvid.errors import UserError
from nasvid.plugins.needs import missing
from nasvid.plugins.plugin import C, Plugin
from nasvid.plugins.registry import load
from nasvid.recipe.sections import EngineSection, TrainingSection
from nasvid.slices import TensorSlice
from nasvid.training.optimizer import SparseAdamW
from nasvid.training.resources import Resources, Workload

Used = Mapping[str, TensorSlice]
"""Name of a parameter -> the part of it that a subnet uses; absent if it uses none."""


@dataclass(frozen=True, slots=True)
class Segment:
    """Elements of a parameter inside a shard.

    name: of the parameter. start: index of the first element in the flattened parameter.
    count: number of elements. offset: their position in the shard.
    """

    name: str
    start: int
    count: int
    offset: int


@dataclass(frozen=True, slots=True)
class Shard:
    """A tensor that this rank's optimizer updates, and the parts of parameters in it."""

    tensor: torch.Tensor
    segments: tuple[Segment, ...]

    @classmethod
    def whole(cls, name: str, parameter: torch.Tensor) -> Shard:
        """Return a shard that is one whole parameter."""
        return cls(parameter, (Segment(name, 0, parameter.numel(), 0),))


class Updater(ABC):
    """Sums the gradients of all ranks and updates the shared weights.

    An update reads the `.grad` of the net's parameters, computed from this rank's clips; whether
    they come from views, several backward passes or none does not matter to the updater. Every
    rank holds all weights. `shards` lists the part of the optimizer's state that a rank holds; the
    EMA weights are partitioned in the same way, and checkpoints are written and read by shard.

    optimizer: holds the state of each shard's tensor. divided: whether each rank has its own
    shards; otherwise all ranks have the same ones.
    """

    optimizer: SparseAdamW
    shards: Sequence[Shard]
    divided: bool

    def take_weights(self, net: nn.Module) -> None:
        """Copy the net's weights, which have been loaded, into the engine's own copy of them."""
        parameters = dict(net.named_parameters())
        for shard in self.shards:
            flat = shard.tensor.detach().view(-1)
            for segment in shard.segments:
                own = flat[segment.offset : segment.offset + segment.count]
                whole = parameters[segment.name].detach().view(-1)
                own.copy_(whole[segment.start : segment.start + segment.count])

    def begin(self, used: Sequence[Used]) -> None:
        """Receive what a step will use, before its first backward pass: one mapping per subnet.

        Outside of these slices the step's gradients are exactly zero. An updater may ignore it, as
        this one does, and is not called outside of training steps.
        """
        del used

    def begin_last_pass(self) -> None:
        """Receive that the step's next backward pass on this rank is its last, of its last subnet.

        A gradient is final once its parameter's post-accumulate-grad hooks have run in that pass,
        or before it, if the last subnet does not use the parameter. An updater may ignore it.
        """
        return

    @abstractmethod
    def update(self, *, rate: float, whole: bool) -> float:
        """Sum the ranks' gradients, clip the sum, update the weights, clear the gradients.

        Each rank has the gradients of its share of the step's loss, which add up to those of the
        whole loss. rate: the learning rate. whole: the step trained the largest subnet.

        Returns the norm of the sum before clipping, the same on all ranks, after waiting for the
        device. If it is not finite, no weight has changed.

        Raises:
            RankLost: another rank has ended.
        """


class Engine(Plugin[C], ABC):
    """What updates the shared weights, on one rank or many.

    Making one is cheap: `nasvid plan` and other commands make it to ask what it needs. All methods
    except `start` have a default; what an engine does not report is shown as unknown.
    """

    @abstractmethod
    def start(self, net: nn.Module, settings: TrainingSection, ranks: Ranks) -> Updater:
        """Return the updater of a net's weights on this rank.

        settings: the recipe's, for the optimizer and the clipping norm.
        """

    @property
    def variant(self) -> str:
        """What distinguishes this config from the engine's others in a table: `zero 2`, or ""."""
        given = self.config.model_dump(mode="json", exclude_defaults=True)
        return " ".join(f"{key} {value}" for key, value in given.items())

    def variants(self) -> Sequence[C]:
        """Return the configs of this engine that tables compare."""
        return (self.config,)

    def resources(self, work: Workload) -> Resources | None:
        """Return the resources that the engine needs on each device; None if unknown.

        Raises:
            UserError: a file that the config names cannot be read.
        """
        del work

    def library_config(self, settings: TrainingSection) -> dict[str, Any]:
        """Return the configuration that the engine passes to its library, as plain JSON.

        Raises:
            UserError: the user's own configuration contradicts the recipe.
        """
        del settings
        return {}

    @classmethod
    def launch_line(cls, job: Job) -> str | None:
        """Return the shell line that starts a job with the engine's own launcher; None without one.

        torchrun starts every engine; see `nasvid.distributed.launch`.
        """
        del job


def engine_class(name: str) -> type[Engine]:
    """Return the class of an engine.

    Raises:
        PluginError: there is no such engine.
    """
    return load("engines", name)


def engine_of(section: EngineSection) -> Engine:
    """Return the engine that a section of a recipe names."""
    return section.make()


def check_ready(section: EngineSection) -> None:
    """Raise UserError if this machine lacks what an engine needs."""
    for need in missing(section.cls.needs):
        raise UserError(
            f"Engine {section.name} needs {need.package}, which is not installed: {need.install}"
        )
    engine_of(section).check_ready()


def label(section: EngineSection) -> str:
    """Return an engine's label in tables: its name and variant."""
    return f"{section.name} {engine_of(section).variant}".strip()


def make_optimizer(parameters: Sequence[nn.Parameter], settings: TrainingSection) -> SparseAdamW:
    """Return the recipe's optimizer for some parameters."""
    return SparseAdamW(
        parameters,
        lr=settings.learning_rate,
        betas=settings.betas,
        weight_decay=settings.weight_decay,
    )
