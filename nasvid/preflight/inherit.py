"""Completes the config of a recipe's space from the model that the supernet starts from."""

from __future__ import annotations

import json
from pathlib import Path

from nasvid.recipe.sections import Recipe

PARTS = ("", "transformer", "unet", "denoiser")
"""Folders in which `supernet.init_from` may hold a model, besides its `subfolder`."""


def inherited(recipe: Recipe) -> Recipe:
    """Return a recipe whose space takes missing settings from its existing model.

    A model that is not on this machine, or has no config, adds none; that is checked elsewhere.
    """
    section = recipe.supernet
    if section is None:
        return recipe
    parts = (section.subfolder,) if section.subfolder else PARTS
    for part in parts:
        path = Path(section.init_from) / part / "config.json"
        if path.is_file():
            break
    else:
        return recipe
    try:
        model = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return recipe
    config = recipe.space.config
    new = recipe.space.cls.inherit(config, model) if isinstance(model, dict) else config
    return recipe.model_copy(update={"space": recipe.space.model_copy(update={"config": new})})
