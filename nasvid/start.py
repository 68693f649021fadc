"""What a supernet starts from: random weights, or those of an existing model."""

from __future__ import annotations

from collections.abc import Callable

from nasvid.clips import Clips
from nasvid.display import Display
from nasvid.evaluator import DenoisingLoss
from nasvid.files import write_json
from nasvid.parts import Parts
from nasvid.run import Run
from nasvid.search.context import held_out, make_context
from nasvid.supernet import Supernet

SUBNETS = 5
"""Subnets judged before any training, from the smallest to the largest."""


def initial_supernet(
    run: Run, parts: Parts, display: Display, held_out_clips: Callable[[], Clips]
) -> Supernet:
    """Return the supernet that training starts with.

    With `supernet.init_from` it has that model's weights, and `search/start.json` what its subnets
    are worth before any training: with the weights as they came and, where they are reordered,
    sorted by importance.

    Raises:
        UserError: the model cannot be loaded or is not of the largest architecture.
    """
    supernet = parts.supernet(run.recipe.seed)
    section = run.recipe.supernet
    if section.init_from is None:
        return supernet
    from nasvid.export.pretrained import load_model
    from nasvid.importance import spread

    model = load_model(parts.space, section.init_from, section.subfolder)
    shape = parts.shapes[max(parts.shapes)]
    archs = spread(parts.space, shape, SUBNETS)
    batches = held_out(run.recipe, parts, held_out_clips()).batches
    losses: dict[str, list[float]] = {}
    for order in ("as it came", "sorted") if section.reorder else ("as it came",):
        supernet.load_pretrained(model, reorder=order == "sorted")
        supernet.net.eval()
        judge = DenoisingLoss(DenoisingLoss.Config(), make_context(parts, supernet, batches))
        losses[order] = [metrics["loss"] for metrics in judge.evaluate(archs)]
    rows = [
        {
            "id": arch.id,
            "macs": parts.space.cost(arch, "macs", shape),
            "params": parts.space.cost(arch, "params", shape),
            "loss": {order: values[i] for order, values in losses.items()},
        }
        for i, arch in enumerate(archs)
    ]
    write_json(run.folder / "search" / "start.json", rows)
    display.say(f"start: the supernet has the weights of {section.init_from}")
    for row in rows:
        shown = ", ".join(f"{value:.4f} {order}" for order, value in row["loss"].items())
        display.say(f"start: {row['params']:,} parameters, loss {shown}")
    return supernet
