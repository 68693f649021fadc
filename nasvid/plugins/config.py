"""The base of all typed settings: sections of the recipe and configs of plug-ins."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from pydantic import (
    BaseModel,
    ConfigDict,
    ValidationInfo,
    ValidatorFunctionWrapHandler,
    WrapValidator,
)


class Config(BaseModel):
    """Immutable settings; unknown keys are errors, a field's docstring is its documentation."""

    model_config = ConfigDict(
        frozen=True,
        extra="forbid",
        use_attribute_docstrings=True,
        validate_default=True,
        allow_inf_nan=False,
    )


class Typed(str):
    """Text from the command line. Paths in it are relative to `folder`, where it was typed."""

    folder: Path

    @classmethod
    def here(cls, text: str) -> Typed:
        """Return a text that is typed in the current folder."""
        typed = cls(text)
        typed.folder = Path.cwd()
        return typed


def folder_of(path: str, info: ValidationInfo) -> Path | None:
    """Return what a path of a recipe is relative to; None if the settings come from code.

    path: as it was written, before its validation.
    """
    return path.folder if isinstance(path, Typed) else (info.context or {}).get("folder")


def _absolute(path: str, check: ValidatorFunctionWrapHandler, info: ValidationInfo) -> str:
    folder, path = folder_of(path, info), check(path)
    return path if folder is None else str(folder / path)


def _absolute_or_a_name(
    path: str, check: ValidatorFunctionWrapHandler, info: ValidationInfo
) -> str:
    folder, path = folder_of(path, info), check(path)
    return str(folder / path) if folder is not None and (folder / path).exists() else path


RecipePath = Annotated[str, WrapValidator(_absolute)]
"""A path to a file or folder: written relative to the recipe, absolute once read."""

ModelPath = Annotated[str, WrapValidator(_absolute_or_a_name)]
"""A folder, as in `RecipePath`, if it exists; otherwise a model's name on a hub."""
