"""The resources that an engine reports in a plan: memory on each device and traffic."""

from __future__ import annotations

from dataclasses import asdict, dataclass

from nasvid.training.optimizer import CHUNK, HOST_CHUNK

LARGEST_TENSOR = 0.1
"""Approximate share of the parameters in the largest tensor."""
CHUNK_BYTES = 33
"""Temporary bytes per element of a chunk that the optimizer updates if some are inactive: eight
values of four bytes and a mask."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Workload:
    """What an engine's needs depend on besides its config.

    params: parameters of the largest subnet, all in fp32. devices: number of devices, with one rank
    each. ages: whether some steps leave weights out, so that the optimizer stores the age of each.
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
        """Approximate number of elements in the largest parameter."""
        return int(self.params * LARGEST_TENSOR)


@dataclass(frozen=True, slots=True, kw_only=True)
class Resources:
    """What an engine needs in addition to the weights and their gradients, in bytes.

    optimizer: AdamW's moments, the ages of weights, and the engine's other state. ema: the EMA
    weights. update: temporary peak during an update, when the activations are freed; negative if
    the engine has freed gradients by then. host: in the host's memory, per device. sent: what each
    device sends to the others per step. parts: into how many the ranks divide the EMA weights and
    the optimizer's state; 1 if each has them all.
    """

    optimizer: int
    ema: int
    update: int
    host: int
    sent: int
    parts: int = 1

    def to_json(self) -> dict[str, int]:
        """Return plain values."""
        return asdict(self)


def state_bytes(weights: int, work: Workload) -> int:
    """Return the bytes of `SparseAdamW`'s state for `weights` bytes of weights."""
    return weights * (3 if work.ages else 2)


def staging_bytes(parts: int | None, work: Workload) -> int:
    """Return the bytes of the copies of a checkpoint on rank 0: the weights, and its part of more.

    parts: see `Resources`; None if unknown, which leaves the weights.
    """
    if parts is None:
        return work.size
    return work.size + (work.size + state_bytes(work.size, work)) // parts


def step_bytes(weights: int, tensor: int, work: Workload) -> int:
    """Return the temporary bytes of a step of `SparseAdamW`.

    weights: bytes of the weights that it updates. tensor: elements of the largest tensor in them.
    """
    if not work.cuda:
        return min(HOST_CHUNK, tensor) * CHUNK_BYTES
    # On a GPU, AdamW takes the roots of all second moments at once.
    return min(CHUNK, tensor) * CHUNK_BYTES if work.ages else weights


def ring_bytes(ways: int, work: Workload) -> int:
    """Return the bytes that each device sends when all weights, or gradients, pass along a ring.

    A ring (Patarasuk and Yuan, 2009) of R devices sends (R-1)/R of the bytes each `way`: a sum over
    all devices takes two ways, gathering their parts takes one.
    """
    return ways * (work.devices - 1) * work.size // work.devices
