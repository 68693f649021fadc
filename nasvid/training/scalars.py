"""What training measures, for TensorBoard, which is imported here alone."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from nasvid.distributed.ranks import Ranks
from nasvid.recipe.sections import Recipe

Write = Callable[[dict[str, Any]], None]


@contextmanager
def scalars(folder: Path, recipe: Recipe, ranks: Ranks, done: int) -> Iterator[Write]:
    """Yield what writes a step's event into `folder`, where the recipe asks for it.

    done: steps made before; what an interrupted run wrote of later ones is superseded.
    """
    if not (recipe.training.tensorboard and ranks.first):
        yield lambda event: None
        return
    from torch.utils.tensorboard import SummaryWriter

    with SummaryWriter(str(folder), purge_step=done) as writer:

        def write(event: dict[str, Any]) -> None:
            for name, value in _scalars(event).items():
                writer.add_scalar(name, value, event["step"])

        yield write


def _scalars(event: dict[str, Any]) -> dict[str, float]:
    """Return the numbers of an event by TensorBoard's names; what is missing is left out."""
    seconds = event["seconds"] + event["waited"]
    found = {
        "loss/mean": event["loss"],
        "training/grad_norm": event["grad_norm"],
        "training/learning_rate": event["learning_rate"],
        "speed/steps_per_second": 1 / seconds,
        "speed/videos_per_second": event["clips"] / seconds,
        "speed/flops_per_second": event["flops"] / seconds if "flops" in event else None,
        "speed/utilization": event.get("utilization"),
        "speed/waiting_for_data": event["waited"] / seconds,
        "memory/peak_bytes": event["memory"],
    }
    for group in event.get("groups", [event]):
        for role, loss in group["losses"].items():
            found[f"loss_at_{group['resolution']}/{role}"] = loss
    return {name: value for name, value in found.items() if value is not None}
