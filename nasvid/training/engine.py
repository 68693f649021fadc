"""What moves the shared weights once their gradients are there: on one process or on many."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from nasvid.distributed.ranks import Ranks
from nasvid.plugins.config import Config
from nasvid.plugins.plugin import C, Plugin
from nasvid.recipe.sections import EngineSection, TrainingSection
from nasvid.training.optimizer import SparseAdamW


@dataclass(frozen=True, slots=True)
class Segment:
    """Elements of a parameter inside a shard.

    name: the parameter's. start: its first element that is here, of all its elements in a row.
    count: how many. offset: where they begin in the shard.
    """

    name: str
    start: int
    count: int
    offset: int


@dataclass(frozen=True, slots=True)
class Shard:
    """A tensor that the optimizer of this rank updates, and the parameters that it is made of."""

    tensor: torch.Tensor
    segments: tuple[Segment, ...]

    @classmethod
    def whole(cls, name: str, parameter: torch.Tensor) -> Shard:
        """Return the shard that is an undivided parameter."""
        return cls(parameter, (Segment(name, 0, parameter.numel(), 0),))


class Engine(Plugin[C], ABC):
    """Adds up the gradients of all ranks and moves the shared weights by them.

    What an update takes is the `.grad` of the net's parameters, from this rank's clips; how it
    came there, from views, several backward passes or none at all, is not the engine's affair.
    Every rank holds all weights. Which part of the optimizer's state it holds, `shards` tells; the
    averaged weights are divided alike, and checkpoints are written and read by it.

    optimizer: holds the state of each shard's tensor. divided: whether each rank's shards are a
    part of their own; otherwise all ranks have the same.
    """

    optimizer: SparseAdamW
    shards: Sequence[Shard]
    divided: bool

    @abstractmethod
    def __init__(
        self, config: C, net: nn.Module, settings: TrainingSection, ranks: Ranks
    ) -> None: ...

    def take_weights(self, net: nn.Module) -> None:
        """Bring what the engine keeps of the weights up to those of the net, which were set."""
        parameters = dict(net.named_parameters())
        for shard in self.shards:
            flat = shard.tensor.detach().view(-1)
            for segment in shard.segments:
                own = flat[segment.offset : segment.offset + segment.count]
                whole = parameters[segment.name].detach().view(-1)
                own.copy_(whole[segment.start : segment.start + segment.count])

    @classmethod
    def check_here(cls, config: Config) -> None:
        """Raise UserError if this machine lacks what the engine needs."""
        del config

    @classmethod
    def own_config(cls, config: Config, settings: TrainingSection) -> dict[str, Any]:
        """Return the settings that the engine gives the library that it is made of.

        Raises:
            UserError: the user's own contradict the recipe.
        """
        del config, settings
        return {}

    @abstractmethod
    def update(self, *, rate: float, whole: bool) -> float:
        """Add up the gradients of the ranks, clip the sum, move the weights, clear the gradients.

        Each rank's are of its share of the step's loss, so that their sum is the whole's. rate:
        the learning rate. whole: the step trained the largest subnet.

        Returns the norm of the sum before clipping, the same on all ranks. Where it is not finite,
        nothing was moved.

        Raises:
            RankLost: another rank has ended.
        """


def make_optimizer(parameters: Sequence[nn.Parameter], settings: TrainingSection) -> SparseAdamW:
    """Return the recipe's optimizer of some parameters."""
    return SparseAdamW(
        parameters,
        lr=settings.learning_rate,
        betas=settings.betas,
        weight_decay=settings.weight_decay,
    )


def is_here(section: EngineSection) -> None:
    """Raise UserError if this machine lacks what an engine needs."""
    section.cls.check_here(section.config)
