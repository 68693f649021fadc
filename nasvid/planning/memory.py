"""The memory of a training step on each device, item by item.

The engine reports its own share (`Engine.resources`); the rest is the same under every engine.
`benchmarks/memory.py` compares the total with the memory of real steps.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from nasvid.planning.scenario import Scenario
from nasvid.planning.teacher import weight_bytes
from nasvid.supernet import KEPT_COPIES
from nasvid.training.resources import Resources, staging_bytes
from nasvid.training.saver import copies_any

USABLE = 0.9
"""Share of a device's memory that a recipe may use; fragmentation, the framework and whatever else
runs there take the rest."""
CHECKPOINTED = 0.22
"""Share of the activations that is assumed to remain with gradient checkpointing in a space without
feature points, whose blocks are unknown; where they are known, it is counted."""


@dataclass(frozen=True, slots=True, kw_only=True)
class MemoryPlan:
    """Bytes on each device under one engine.

    weights, gradients: in fp32. subnets: copies of slices in cached subnets. activations: of the
    clips of one backward pass, including half-precision copies of the weights. teacher: the weights
    of a frozen teacher, and its hidden states for the same clips. encoders: the weights of VAE and
    text encoder, if steps encode their clips or captions. staging: in the host's memory, copies of
    a checkpoint on rank 0. engine: what the engine itself needs; None if it does not report it,
    which leaves the total unknown. cuda: whether the devices are GPUs; on a CPU, copies count, too.
    """

    weights: int
    gradients: int
    subnets: int
    activations: int
    teacher: int
    encoders: int
    staging: int
    engine: Resources | None
    cuda: bool

    @property
    def shared(self) -> int:
        """What the backward pass and the update both hold under every engine."""
        frozen = self.teacher + self.encoders
        copies = 0 if self.cuda else self.staging
        return self.weights + self.gradients + self.subnets + frozen + copies

    @property
    def always(self) -> int | None:
        """What the backward pass and the update both hold; None if unknown."""
        if self.engine is None:
            return None
        return self.shared + self.engine.optimizer + self.engine.ema

    @property
    def least(self) -> int:
        """The known part of the peak."""
        if self.engine is None or self.always is None:
            return self.shared + self.activations
        return self.always + max(self.activations, self.engine.update)

    @property
    def total(self) -> int | None:
        """The peak; None if unknown."""
        return None if self.engine is None else self.least

    def fits(self, memory: int | None) -> bool | None:
        """Return whether `memory` bytes are enough; None if unknown."""
        if memory is None:
            return None
        enough = self.least <= USABLE * memory
        return None if enough and self.engine is None else enough

    def to_json(self) -> dict[str, Any]:
        """Return plain values."""
        shared = {
            "weights": self.weights,
            "gradients": self.gradients,
            "subnets": self.subnets,
            "activations": self.activations,
            "teacher": self.teacher,
            "encoders": self.encoders,
            "staging": self.staging,
        }
        engine = dict.fromkeys(Resources.__dataclass_fields__)
        if self.engine is not None:
            engine |= self.engine.to_json()
        return shared | engine | {"total": self.total}


def memory(
    scenario: Scenario, engine: Resources | None, activations: int, states: int = 0
) -> MemoryPlan:
    """Predict the memory of a step whose activations take `activations` bytes.

    states: bytes of a teacher's hidden states.

    Under every engine each device holds all weights and all gradients: the gradients of a step's
    subnets are accumulated first and reduced once.
    """
    size = scenario.work.size
    parts = None if engine is None else engine.parts
    copies = copies_any(scenario.recipe.training)
    return MemoryPlan(
        weights=size,
        gradients=size,
        subnets=int(KEPT_COPIES * size),
        activations=activations + (size // 2 if scenario.half else 0),
        teacher=weight_bytes(scenario) + states,
        encoders=scenario.encoders.in_steps,
        staging=staging_bytes(parts, scenario.work) if copies else 0,
        engine=engine,
        cuda=scenario.work.cuda,
    )
