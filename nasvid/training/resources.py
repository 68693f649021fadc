"""The resources that an engine reports in a plan: memory on each device and traffic."""

from __future__ import annotations

from dataclasses import asdict, dataclass

from nasvid.training.optimizer import CHUNK

LARGEST_TENSOR = 0.1
"""Share of the parameters that one tensor has at most, about."""
CHUNK_BYTES = 33
"""Of each element of a chunk that the optimizer updates where some rest: eight temporaries of four
bytes and a mask."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Workload:
    """What an engine's needs depend on beside its own config.

    params: parameters of the largest subnet, all in fp32. devices: how many train, one rank on
    each. ages: some steps leave weights out, so that the optimizer keeps the age of each.
    cuda: whether the devices are GPUs.
    """

    params: int
    devices: int
    ages: bool
    cuda: bool

    @property
    def size(self) -> int:
        """Bytes of the weights."""
        return 4 * self.params

    @property
    def largest_tensor(self) -> int:
        """Elements of the largest parameter, about."""
        return int(self.params * LARGEST_TENSOR)


@dataclass(frozen=True, slots=True, kw_only=True)
class Resources:
    """What an engine takes beside the weights and their gradients, in bytes.

    optimizer: AdamW's moments, the ages of weights, and what else the engine keeps of its state.
    ema: the EMA weights. update: the peak of what an update needs for the moment, when the
    activations are freed; negative where the engine has freed gradients by then. host: in the
    host's memory, for each device. sent: what each device sends to the others in a step.
    """

    optimizer: int
    ema: int
    update: int
    host: int
    sent: int

    def to_json(self) -> dict[str, int]:
        """Return plain values."""
        return asdict(self)


def state_bytes(weights: int, work: Workload) -> int:
    """Return the bytes of `SparseAdamW`'s state for so many bytes of weights."""
    return weights * (3 if work.ages else 2)


def step_bytes(weights: int, tensor: int, work: Workload) -> int:
    """Return the bytes of what a step of `SparseAdamW` needs for the moment.

    weights: bytes of those that it updates. tensor: elements of the largest tensor of them.
    """
    if work.ages:
        return min(CHUNK, tensor) * CHUNK_BYTES
    # AdamW takes the roots of all second moments at once on a GPU, else tensor by tensor.
    return weights if work.cuda else 8 * tensor


def ring_bytes(ways: int, work: Workload) -> int:
    """Return what each device sends when all weights, or gradients, pass along a ring.

    A ring (Patarasuk and Yuan, 2009) of R devices sends (R-1)/R of the bytes each `way`: a sum over
    all devices takes two, gathering what each device has a part of takes one.
    """
    return ways * (work.devices - 1) * work.size // work.devices
