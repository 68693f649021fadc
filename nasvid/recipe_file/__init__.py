"""Recipes from files: scales, `--set`, and errors that say where and what would be right."""

from nasvid.recipe_file.load import LoadedRecipe, load_recipe, write_resolved
from nasvid.recipe_file.nodes import RecipeError

__all__ = ["LoadedRecipe", "RecipeError", "load_recipe", "write_resolved"]
