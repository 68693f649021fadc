"""The base of all typed settings: sections of the recipe and configs of plug-ins."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from pydantic import AfterValidator, BaseModel, ConfigDict, ValidationInfo


class Config(BaseModel):
    """Immutable settings; unknown keys are errors, a field's docstring is its documentation."""

    model_config = ConfigDict(
        frozen=True,
        extra="forbid",
        use_attribute_docstrings=True,
        validate_default=True,
        allow_inf_nan=False,
    )


def recipe_folder(info: ValidationInfo) -> Path | None:
    """Return the folder of the recipe being read; None if the settings come from code."""
    return (info.context or {}).get("folder")


def _beside_the_recipe(path: str, info: ValidationInfo) -> str:
    folder = recipe_folder(info)
    return path if folder is None else str(folder / path)


def _beside_the_recipe_or_a_name(path: str, info: ValidationInfo) -> str:
    folder = recipe_folder(info)
    return str(folder / path) if folder is not None and (folder / path).exists() else path


RecipePath = Annotated[str, AfterValidator(_beside_the_recipe)]
"""A path to a file or folder: written relative to the recipe, absolute once read."""

ModelPath = Annotated[str, AfterValidator(_beside_the_recipe_or_a_name)]
"""A folder, as in `RecipePath`, if it exists; otherwise a model's name on a hub."""
