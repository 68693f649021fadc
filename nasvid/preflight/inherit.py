"""What a recipe leaves out of its space's config, taken from the model that it begins from."""

from __future__ import annotations

import json
from pathlib import Path

from nasvid.recipe.sections import Recipe

PARTS = ("", "transformer", "unet", "denoiser")
"""Folders of a model inside what `supernet.init_from` names, besides its `subfolder`."""


def inherited(recipe: Recipe) -> Recipe:
    """Return a recipe whose space has the settings of its existing model where it gives none.

    A model that is not on this machine, or has no config, gives none; that is checked elsewhere.
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
