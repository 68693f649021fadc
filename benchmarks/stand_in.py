"""What stands in for a pretrained model in benchmarks: a small one, trained alone on some clips."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import closing
from dataclasses import replace
from itertools import islice
from pathlib import Path
from typing import Any

import yaml

from nasvid.data.loader import Batch
from nasvid.distributed.ranks import ALONE
from nasvid.preflight import load_recipe
from nasvid.recipe.sections import Recipe
from nasvid.run.folder import begin
from nasvid.run.session import Session
from nasvid.supernet import Supernet
from nasvid.training.planner import Alone, Planner
from nasvid.training.teacher import Teacher
from nasvid.training.trainer import Trainer

BATCHES = 40
"""Of clips, decoded once."""


def opened(folder: Path, recipe: Mapping[str, Any]) -> Session:
    """Return a new run of a recipe, given as plain values."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / "recipe.yaml"
    path.write_text(yaml.safe_dump(dict(recipe)))
    loaded = load_recipe(path)
    return Session(begin(folder / "run", loaded), loaded)


def clips_of(session: Session) -> list[Batch]:
    """Return batches of training clips, which all trainings go through again and again."""
    trainer = Trainer.of(session.recipe, session.components.supernet(), session.components.noiser())
    requests = islice(trainer.planner.requests(0, 0, ALONE), BATCHES)
    with closing(session.clips("train").load(requests)) as batches:
        return list(batches)


def alone(
    session: Session, supernet: Supernet, teacher: Teacher | None = None, **changed: Any
) -> Trainer:
    """Return a trainer of the largest subnet alone. changed: of the recipe's `training`."""
    training = session.recipe.training.model_copy(update=changed)
    recipe: Recipe = session.recipe.model_copy(update={"training": training})
    planner = Planner.of(recipe, supernet.space)
    planner = replace(planner, sampler=Alone(planner))
    noiser = session.components.noiser()
    return Trainer.of(recipe, supernet, noiser, teacher=teacher, planner=planner)
