"""Recipes from files: scales, `--set`, and errors that say where and what would be right."""

from nasvid.recipe_file.load import LoadedRecipe, check_ready, load_recipe, to_yaml, write_resolved
from nasvid.recipe_file.nodes import RecipeError

__all__ = ["LoadedRecipe", "RecipeError", "check_ready", "load_recipe", "to_yaml", "write_resolved"]
