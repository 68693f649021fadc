"""Completes a recipe from the folders that it names: its space's config, its VAE's factors."""

from __future__ import annotations

import json
import re
from pathlib import Path

from nasvid.recipe.sections import Recipe

PARTS = ("", "transformer", "unet", "denoiser")
"""Folders in which `supernet.init_from` may hold a model, besides its `subfolder`."""


def inherited(recipe: Recipe) -> Recipe:
    """Return a recipe whose space takes missing settings from its existing model.

    A model on a hub, or one without a config, adds none; that is checked elsewhere.

    Raises:
        ValueError: the model's folder does not exist, or the space cannot take its settings.
    """
    section = recipe.supernet
    if section is None:
        return recipe
    folder = Path(section.init_from)
    if not could_be_a_model(section.init_from):
        raise ValueError(why_no_model(section.init_from))
    if folder.is_dir() and not (folder / section.subfolder).is_dir():
        raise ValueError(f"folder {folder / section.subfolder} does not exist; correct subfolder")
    parts = (section.subfolder,) if section.subfolder else PARTS
    for part in parts:
        path = folder / part / "config.json"
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


def with_factors(recipe: Recipe) -> Recipe:
    """Return a recipe whose VAE has the channels and factors of its folder."""
    if recipe.vae is None:
        return recipe
    from nasvid.latents.vae import completed

    return recipe.model_copy(update={"vae": completed(recipe.vae)})


def why_no_model(name: str) -> str:
    """Return what is wrong with a name that is neither a folder nor looks like one on a hub."""
    if Path(name).is_file():
        return f"{name} is a file; name its folder, {Path(name).parent}"
    return f"folder {name} does not exist"


def could_be_a_model(name: str) -> bool:
    """Return whether a name is a folder that exists, or looks like `owner/name` on a hub."""
    return Path(name).is_dir() or re.fullmatch(r"[\w.-]*\w/[\w.-]+", name) is not None
