"""Training's measurements for TensorBoard, which is imported only here."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from nasvid.distributed.ranks import Ranks
from nasvid.recipe.sections import Recipe
from nasvid.training.events import StepEvent

Write = Callable[[StepEvent], None]


@contextmanager
def scalars(folder: Path, recipe: Recipe, ranks: Ranks, done: int) -> Iterator[Write]:
    """Yield a function that writes a step's event to `folder`, if the recipe enables it.

    done: number of earlier steps; later ones, written by an interrupted run, are superseded.
    """
    if not (recipe.training.tensorboard and ranks.is_rank0):
        yield lambda event: None
        return
    from torch.utils.tensorboard import SummaryWriter

    with SummaryWriter(str(folder), purge_step=done) as writer:

        def write(event: StepEvent) -> None:
            for name, value in _scalars(event).items():
                writer.add_scalar(name, value, event.step)

        yield write


def _scalars(event: StepEvent) -> dict[str, float]:
    """Return an event's numbers by their TensorBoard names, without the missing ones."""
    speed = event.speed
    found = {
        "loss/mean": event.loss,
        "training/grad_norm": event.grad_norm,
        "training/learning_rate": event.learning_rate,
        "speed/steps_per_second": 1 / speed.total,
        "speed/videos_per_second": event.clips / speed.total,
        "speed/flops_per_second": speed.flops / speed.total if speed.flops else None,
        "speed/utilization": speed.utilization,
        "speed/waiting_for_data": speed.waited / speed.total,
        "memory/peak_bytes": speed.memory,
    }
    for group in event.groups if event.loss is not None else ():
        for role, loss in group.losses.items():
            found[f"loss_at_{group.resolution}/{role}"] = loss
    return {name: value for name, value in found.items() if value is not None}
