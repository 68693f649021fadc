"""Completes a recipe from the folders that it names: its space's config, its VAE's factors."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

from nasvid.errors import UserError
from nasvid.host.hub import could_be_a_model, why_no_model
from nasvid.recipe.problems import Problem
from nasvid.recipe.sections import Recipe

PARTS = ("", "transformer", "unet", "denoiser")
"""Folders in which `supernet.init_from` may hold a model, besides its `subfolder`."""
EXPORTED = "nasvid.json"
"""The file that says that nasvid has exported a folder's model."""


def inherited(recipe: Recipe) -> Recipe:
    """Return a recipe whose space takes missing settings from its existing model.

    A model on a hub, or one that nasvid exported without a config, adds none.

    Raises:
        ValueError: the folder does not exist or holds no model, or the space cannot take its
            settings.
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
        if folder.is_dir() and not (folder / EXPORTED).is_file():
            files = " or ".join(str(Path(part, "config.json")) for part in parts)
            raise ValueError(f"folder {folder} holds no model: it has no {files}")
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


def unreadable_vae(recipe: Recipe) -> Iterator[Problem]:
    """Yield why nothing is known of a recipe's VAE, if its folder cannot be read."""
    from nasvid.latents.vae import make_vae

    section = recipe.vae
    if section is None or section.train is not None or not Path(section.path).is_dir():
        return
    try:
        _ = make_vae(section).compression
    except UserError as error:
        yield Problem(("vae",), str(error))
