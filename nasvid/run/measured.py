"""What the measured importance of blocks and units is used for."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from nasvid.errors import UserError
from nasvid.host.aligned import read_tensors
from nasvid.host.reading import as_list, as_number, as_object, as_text, read_json
from nasvid.metrics.importance import ranks
from nasvid.recipe.sections import ImportanceSection
from nasvid.space import SearchSpace

START, UNITS = "start.json", "units.safetensors"
"""Files of the stage: what blocks are worth before training, and the scores of all units."""


def prefer(space: SearchSpace, folder: Path, section: ImportanceSection | None) -> None:
    """Let random subnets of a space prefer the blocks that a run has found to matter.

    folder: of the run's measurements; nothing changes if there are none yet.

    Raises:
        Damaged: the file is something else.
    """
    found = None if section is None else read_json(folder / START, importance_of)
    if section is not None and found is not None:
        worth = {block["name"]: block[section.blocks_by] for block in found["blocks"]}
        space.prefer(ranks(worth), section.bias)


def unit_order(folder: Path, by: str) -> Mapping[str, torch.Tensor]:
    """Return the measured scores of units, by group.

    by: `activations` or `gradients`.

    Raises:
        UserError: they have not been measured.
    """
    path = folder / UNITS
    if not path.exists():
        raise UserError(
            f"{path} is absent, by which supernet.reorder sorts units; remove {folder} and run "
            "nasvid run again"
        )
    named = ((name.partition("/"), scores) for name, scores in read_tensors(path).items())
    return {name: scores for (kind, _, name), scores in named if kind == by}


def importance_of(value: Any) -> dict[str, Any]:
    """Return the content of `importance/start.json` or `trained.json`.

    Raises:
        TypeError, KeyError, ValueError: it is something else.
    """
    as_number(value["clips"])
    for block in as_list(value["blocks"]):
        as_text(block["name"])
        as_number(block["loss"])
        as_number(block["outputs"])
    for units in as_list(value["units"]):
        as_text(units["name"])
        as_number(units["loss"])
    return as_object(value)
