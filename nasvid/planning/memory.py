"""The memory of a training step on each device, item by item.

What is counted follows the engines' own code and DeepSpeed's (`zero/stage_1_and_2.py` of 0.19);
`benchmarks/memory.py` compares it with what real steps take.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from typing import Any

from nasvid.supernet import KEPT_COPIES
from nasvid.training.engines.torch import BUCKET
from nasvid.training.optimizer import CHUNK

USABLE = 0.9
"""Share of a device's memory that a recipe may be predicted to need: fragments, the framework's
own and what else runs there take the rest."""
CHECKPOINTED = 0.22
"""Share of the activations that gradient checkpointing needs: the inputs of all blocks, what is
outside of them, and one block made again. Counted in the elastic UNet: 0.39 with 7 blocks, 0.23
with 9, 0.20 with 13 (scale `gpu`), 0.19 with 25 (scale `paper`)."""
HALF_ACTIVATIONS = 0.6
"""Bytes of activations under bf16 or fp16 autocast, relative to fp32; measured in the elastic UNet:
0.55 to 0.63, for norms stay in fp32."""
ZERO_BUCKET = 5 * 10**8
"""DeepSpeed's `reduce_bucket_size`, in elements, where the recipe's own file does not say."""
LARGEST_TENSOR = 0.1
"""Share of the parameters that one tensor has at most, about."""
CHUNK_BYTES = 33
"""Of each element of a chunk that the optimizer updates where some rest: eight temporaries of four
bytes and a mask."""


@dataclass(frozen=True, slots=True, kw_only=True)
class EngineChoice:
    """An engine as a plan takes it.

    name: `torch` or `deepspeed`. zero: ZeRO's stage, 0 for torch. offload: the divided state is in
    the host's memory. bucket: elements that DeepSpeed reduces at a time.
    """

    name: str = "torch"
    zero: int = 0
    offload: bool = False
    bucket: int = ZERO_BUCKET

    def __str__(self) -> str:
        stage = f" zero {self.zero}" if self.name == "deepspeed" else ""
        return f"{self.name}{stage}{' offload' if self.offload else ''}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Weights:
    """What memory depends on beside the engine and the clips.

    params: of the largest subnet. devices: how many there are. half: products are in bf16 or fp16.
    aged: steps may leave weights out. cuda: on GPUs.
    """

    params: int
    devices: int
    half: bool
    aged: bool
    cuda: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class MemoryPlan:
    """Bytes on each device under one engine.

    weights: in fp32. gradients: in fp32. optimizer: AdamW's moments, the ages of weights, and
    ZeRO's own copy of the divided weights. ema: averaged weights. subnets: copies of slices in the
    subnets kept ready. activations: of the clips of one backward pass, with the weights' copies in
    half precision. update: buckets, divided gradients and other temporaries of an update, when
    there are no activations. host: in the host's memory for each device.
    """

    engine: EngineChoice
    weights: int
    gradients: int
    optimizer: int
    ema: int
    subnets: int
    activations: int
    update: int
    host: int

    @property
    def always(self) -> int:
        """What is there in the backward pass and in the update."""
        return self.weights + self.gradients + self.optimizer + self.ema + self.subnets

    @property
    def total(self) -> int:
        """The peak."""
        return self.always + max(self.activations, self.update)

    def to_json(self) -> dict[str, Any]:
        """Return plain values."""
        return asdict(self) | {"name": str(self.engine), "total": self.total}


def memory(engine: EngineChoice, of: Weights, activations: int) -> MemoryPlan:
    """Predict the memory of a step whose activations take so many bytes.

    With P parameters and R devices. Always 4P for the weights and 4P for the gradients, whole on
    each device under every engine: the gradients of a step's subnets are added up before they are
    reduced, once. AdamW's moments are 8P, and 4P the ages of weights unless every step trains the
    largest subnet; averaged weights are 4P. ZeRO (Rajbhandari et al., arXiv 1910.02054, section 5)
    divides those by R from stage 1 on, and adds 4P/R for the weights that it updates.
    """
    size = 4 * of.params
    part = size // of.devices if engine.zero else size
    state = part * (3 if of.aged else 2) + (part if engine.zero else 0)
    plan = MemoryPlan(
        engine=engine,
        weights=size,
        gradients=size,
        optimizer=state,
        ema=part,
        subnets=int(KEPT_COPIES * size),
        activations=activations + (size // 2 if of.half else 0),
        update=max(_update(engine, of)),
        host=0,
    )
    if not engine.offload:
        return plan
    # The host also keeps the gradients of its part, and a part to copy weights through.
    if of.cuda:
        return replace(plan, optimizer=0, ema=0, host=state + 3 * part)
    return replace(plan, optimizer=state + 2 * part)


def _update(engine: EngineChoice, of: Weights) -> Iterator[int]:
    """Yield what each moment of an update needs beyond what is always there."""
    size = 4 * of.params
    part = size // of.devices if engine.zero else size
    tensor = int(of.params * LARGEST_TENSOR)
    # AdamW takes the roots of all second moments at once on a GPU, else tensor by tensor.
    roots = part if of.cuda else 8 * (part // 4 if engine.zero else tensor)
    chunk = min(CHUNK, part // 4 if engine.zero else tensor) * CHUNK_BYTES
    if engine.name != "deepspeed":
        yield min(size, 4 * (BUCKET + tensor)) if of.devices > 1 else 0
        yield chunk if of.aged else roots
        return
    if engine.zero == 0:
        yield max(min(4 * engine.bucket, size), chunk if of.aged else roots)
        return
    # Gradients move into a bucket, whose memory is taken whole; on a CPU that is what is written.
    moved = min(4 * engine.bucket, size)
    bucket = 4 * engine.bucket if of.cuda else moved
    # Made flat once more for the ranks' sum; then this rank's part is taken out of it.
    summed = moved if of.devices > 1 else 0
    if engine.offload:
        yield bucket - moved + max(summed, 4 * tensor)
        return
    yield bucket - moved + max(summed, part)
    # Whole gradients are gone then; of the part's there are two more while they are made flat.
    yield max(3 * part, part + (chunk if of.aged else roots)) - size
