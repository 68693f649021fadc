"""Initialises a supernet from an existing model, and evaluates it before any training."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from typing import Any

import torch

from nasvid.architecture import Architecture
from nasvid.errors import UserError
from nasvid.evaluator import Evaluator, Metrics
from nasvid.host.display import Tracker
from nasvid.host.files import write_json
from nasvid.host.reading import as_list
from nasvid.host.streams import stream
from nasvid.metrics.cost import Cost, CostConfig
from nasvid.metrics.loss import DenoisingLoss
from nasvid.recipe.sections import SupernetSection
from nasvid.run.session import Session
from nasvid.shapes import VideoShape
from nasvid.space import SearchSpace
from nasvid.supernet import Supernet

FRACTIONS = (0.75, 0.5, 0.25)
"""Fractions of the largest's MACs at which subnets are evaluated, besides the two ends."""
EACH = 3
"""Number of random architectures evaluated at each fraction."""


def load_start(
    section: SupernetSection,
    supernet: Supernet,
    *,
    reorder: bool,
    scores: Mapping[str, torch.Tensor] | None = None,
    setting: str = "supernet.init_from",
) -> None:
    """Load the weights of an existing model into a new supernet.

    scores: of units, by group, by which they are sorted; None for the norm of their weights.
    setting: of the recipe that names the model, for messages.

    Raises:
        UserError: there is no such model, or it is not the space's largest architecture.
    """
    from nasvid.export.pretrained import load_pretrained

    try:
        model = load_pretrained(section, supernet.net)
    except UserError as error:
        raise UserError(f"{setting}: {error}") from error
    try:
        supernet.load_pretrained(model, reorder=reorder, scores=scores)
    except ValueError as error:
        raise UserError(
            f"{setting}: '{section.init_from}' does not match the space's largest architecture: "
            f"{error}"
        ) from error


def evaluate_start(session: Session, *, is_new: bool) -> None:
    """Evaluate subnets of several costs before any training, with units sorted and unsorted.

    Writes `train/start.json`: for each cost the means of `params`, `macs` and of the losses with
    units as `given` and `sorted`, and the ids of the subnets. Units are sorted only if the recipe
    and the space ask for it. is_new: nothing is trained yet; later the file is only repaired.
    """
    components, section = session.components, session.recipe.supernet
    path = session.folder.train / "start.json"
    if section is None or not (is_new or path.exists()):
        return
    if session.made_again(path, lambda value: as_list(value["costs"])) is not None:
        return
    shape = components.shapes[max(components.shapes)]
    groups = _several_costs(components.space, session.recipe.seed, shape)
    orders = {"given": False}
    if section.reorder and components.space.interchangeable():
        orders["sorted"] = True
    rows: list[dict[str, Any]] = [{"subnets": [arch.id for arch in group]} for group in groups]
    total = len(orders) * sum(map(len, groups))
    with session.display.track("start", total, "subnets") as tracker:
        for name, reorder in orders.items():
            supernet = components.supernet()
            load_start(section, supernet, reorder=reorder, scores=components.unit_order)
            supernet.net.eval()
            context = session.context(supernet)
            cost = Cost(CostConfig(), context)
            loss = DenoisingLoss(DenoisingLoss.Config(), context)
            for row, group in zip(rows, groups, strict=True):
                row |= _means(cost, group)
                row[name] = _means(loss, group, tracker)["loss"]
    write_json(path, {"init_from": section.init_from, "orders": list(orders), "costs": rows})
    for name in orders:
        shown = (f"{row[name]:.3f} at {row['macs'] / rows[0]['macs']:.0%}" for row in rows)
        session.display.say(
            f"start: loss before training by share of MACs, {name}: {', '.join(shown)}"
        )


def _several_costs(
    space: SearchSpace, seed: int, shape: VideoShape
) -> list[tuple[Architecture, ...]]:
    """Return the largest architecture, some at each fraction of its cost, and the smallest.

    None comes twice where the space has no others of such a cost.
    """
    rng = stream(seed, "start")
    between = [
        [space.smallest_above(rng, "macs", fraction, shape) for _ in range(EACH)]
        for fraction in FRACTIONS
    ]
    groups = [[space.largest], *between, [space.smallest]]
    return list(dict.fromkeys(tuple(dict.fromkeys(group)) for group in groups))


def _means(
    evaluator: Evaluator, archs: Sequence[Architecture], tracker: Tracker | None = None
) -> Metrics:
    evaluated: list[Metrics] = []
    for arch in archs:
        evaluated += evaluator.evaluate([arch])
        if tracker is not None:
            tracker.advance()
    names = [metric.name for metric in evaluator.metrics]
    return {name: statistics.fmean(metrics[name] for metrics in evaluated) for name in names}
