"""What each block of a model is worth: how much it loses without, on held-out clips."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass

import torch

from nasvid.architecture import Architecture
from nasvid.evaluator import Context
from nasvid.objective import NoisyBatch
from nasvid.space import SearchSpace
from nasvid.training.teacher import Computed, difference, watched


@dataclass(frozen=True, slots=True)
class Worth:
    """What changes when one on/off choice of the largest architecture is off.

    name: of the choice. loss: by how much the loss rises. outputs: the squared difference of
    predictions, relative to the largest's. features: that of hidden states, relative to how much
    they vary, as in training with a teacher; None if the space has no feature points.
    """

    name: str
    loss: float
    outputs: float
    features: float | None

    def to_json(self) -> dict[str, object]:
        """Return it as plain values."""
        return asdict(self)


def without_each(space: SearchSpace) -> dict[str, Architecture]:
    """Return for each on/off choice the largest architecture without it.

    What a rule of the space demands to be on has none.
    """
    largest = space.largest
    switches = [choice.name for choice in space.choices if choice.options == (False, True)]
    archs = {name: space.architecture({**largest, name: False}) for name in switches}
    return {name: arch for name, arch in archs.items() if not arch[name]}


def first_clips(context: Context, n: int) -> Iterator[NoisyBatch]:
    """Yield the first n held-out clips of each resolution with their noise, in batches."""
    for batches in context.batches.values():
        left = n
        for batch in batches:
            if left > 0:
                yield next(batch.split(left))
            left -= len(batch)


def worth_of_blocks(context: Context, clips: int) -> list[Worth]:
    """Measure each on/off choice of a space on the first clips of each resolution.

    All get the same clips, timesteps and noise (common random numbers).
    """
    space = context.supernet.space
    archs, batches = without_each(space), [*first_clips(context, clips)]
    totals = {name: torch.zeros(3, dtype=torch.float64) for name in archs}
    seen = sum(map(len, batches))
    total = len(batches) * len(archs)
    with context.track("importance", total, "subnets") as tracker, context.inference():
        for batch in batches:
            taught, loss = _computed(context, space.largest, batch)
            for name, arch in archs.items():
                own, without = _computed(context, arch, batch)
                changes = (without - loss, *_changes(own, taught))
                totals[name] += len(batch) * torch.tensor(changes, dtype=torch.float64)
                tracker.advance()
    has_features = bool(space.feature_points(space.largest))
    means = {name: (sums / seen).tolist() for name, sums in totals.items()}
    return [
        Worth(name, loss, outputs, features if has_features else None)
        for name, (loss, outputs, features) in means.items()
    ]


def _computed(context: Context, arch: Architecture, batch: NoisyBatch) -> tuple[Computed, float]:
    """Return what a subnet computes, its states by their names in the largest, and its loss."""
    space, model = context.supernet.space, context.supernet.subnet(arch)
    points = space.feature_points(arch)
    with watched(model, points) as found:
        prediction = space.denoise(model, batch.inputs)
    loss = context.objective.loss(prediction, batch).item()
    return Computed(prediction, {points[name]: state for name, state in found.items()}), loss


def _changes(own: Computed, taught: Computed) -> tuple[float, float]:
    """Return how far predictions and hidden states are from the largest's."""
    expected = taught.prediction.float()
    apart = (own.prediction.float() - expected).square().mean() / expected.square().mean()
    states = [difference(state, taught.features[at]) for at, state in own.features.items()]
    return apart.item(), torch.stack(states).mean().item() if states else 0.0


def ranks(worth: Mapping[str, float]) -> dict[str, float]:
    """Return for each name a number in (0, 1), larger the more it is worth, evenly spaced."""
    order: Sequence[str] = sorted(worth, key=lambda name: worth[name])
    return {name: (place + 0.5) / len(order) for place, name in enumerate(order)}
