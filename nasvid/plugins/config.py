"""The base of all typed settings: sections of the recipe and configs of plug-ins."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated, Any

from pydantic import (
    BaseModel,
    ConfigDict,
    GetCoreSchemaHandler,
    ValidationInfo,
    ValidatorFunctionWrapHandler,
    WrapValidator,
)

LONGEST_PATH, LONGEST_NAME = 3000, 255
"""Most bytes of a path on Linux: 4096, including the folder that it is relative to."""


def _strict(schema: Any) -> Any:
    if isinstance(schema, dict):
        exact = {"strict": True} if schema.get("type") in ("int", "float", "bool") else {}
        return {key: _strict(value) for key, value in schema.items()} | exact
    if isinstance(schema, list):
        return [_strict(value) for value in schema]
    return schema


class Config(BaseModel):
    """Immutable settings; unknown keys are errors, a field's docstring is its documentation."""

    model_config = ConfigDict(
        frozen=True,
        extra="forbid",
        use_attribute_docstrings=True,
        validate_default=True,
        allow_inf_nan=False,
    )

    @classmethod
    def __get_pydantic_core_schema__(cls, source: Any, handler: GetCoreSchemaHandler) -> Any:
        """Return the schema, in which `true` is not a number, nor text a number or a bool."""
        return _strict(handler(source))


class Typed(str):
    """Text typed on the command line; paths in it are relative to `folder`."""

    folder: Path

    @classmethod
    def here(cls, text: str) -> Typed:
        """Return text as typed in the current folder."""
        typed = cls(text)
        typed.folder = Path.cwd()
        return typed


def folder_of(path: str, info: ValidationInfo) -> Path | None:
    """Return the folder that a recipe's path is relative to; None if the config comes from code.

    path: as written, before validation.
    """
    return path.folder if isinstance(path, Typed) else (info.context or {}).get("folder")


def checked_path(path: str) -> str:
    """Return the path, with the home folder for `~`.

    Raises:
        ValueError: no file system allows such a path.
    """
    if "\0" in path:
        raise ValueError("a path cannot contain a NUL character; remove it")
    if len(path.encode(errors="surrogateescape")) > LONGEST_PATH or any(
        len(part.encode(errors="surrogateescape")) > LONGEST_NAME for part in path.split("/")
    ):
        raise ValueError(f"'{path[:40]}…' is too long for a path; use a shorter one")
    return os.path.expanduser(path)  # pathlib raises an error where there is no such home


def _absolute(path: str, check: ValidatorFunctionWrapHandler, info: ValidationInfo) -> str:
    folder, path = folder_of(path, info), checked_path(check(path))
    return path if folder is None else str(folder / path)


def _absolute_or_a_name(
    path: str, check: ValidatorFunctionWrapHandler, info: ValidationInfo
) -> str:
    folder, path = folder_of(path, info), checked_path(check(path))
    return str(folder / path) if folder is not None and (folder / path).exists() else path


RecipePath = Annotated[str, WrapValidator(_absolute)]
"""A path to a file or folder: written relative to the recipe, absolute once read."""

ModelPath = Annotated[str, WrapValidator(_absolute_or_a_name)]
"""A folder, as in `RecipePath`, if it exists; otherwise a model's name on a hub."""
