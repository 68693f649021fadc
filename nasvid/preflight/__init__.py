"""Checking a recipe against this machine and against every part that it names."""

from nasvid.preflight.load import (
    LoadedRecipe,
    check_named,
    check_ready,
    check_whole,
    load_plugins,
    load_recipe,
    to_yaml,
    write_resolved,
)
from nasvid.recipe.nodes import RecipeError

__all__ = [
    "LoadedRecipe",
    "RecipeError",
    "check_named",
    "check_ready",
    "check_whole",
    "load_plugins",
    "load_recipe",
    "to_yaml",
    "write_resolved",
]
