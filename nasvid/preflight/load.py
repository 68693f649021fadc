"""Reading a recipe from a file and writing one back."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import yaml
from pydantic import ValidationError

from nasvid import plugins
from nasvid.data.paths import EMBEDDED_NAME
from nasvid.data.urls import is_url
from nasvid.errors import nearest
from nasvid.host.files import atomic_path
from nasvid.plugins.config import TextSection
from nasvid.preflight import checks
from nasvid.recipe.nodes import Node, RecipeError, read
from nasvid.recipe.overlay import apply_sets, overlay
from nasvid.recipe.problems import Problem, problems_of
from nasvid.recipe.sections import Recipe, VaeSection

SHOWN = 5
"""Problems told at a time."""


@dataclass(frozen=True, slots=True)
class LoadedRecipe:
    """A valid recipe and where it came from.

    recipe: its paths are absolute.
    scale: the name of the scale in it, or None where the file has none.
    why: one line on how `auto` chose the scale, or "".
    tree: the values as written; `tree.place(("training", "steps"))` says where.
    """

    recipe: Recipe
    path: Path
    scale: str | None
    why: str
    tree: Node


def load_recipe(
    path: Path, *, scale: str | None = None, overrides: Sequence[str] = ()
) -> LoadedRecipe:
    """Read a recipe; every scale in the file is validated, not only the one that is used.

    scale: a name among the file's `scales`; None or `auto` for the largest that fits this machine.
    overrides: `section.key=value`, applied after the scale, in order. Paths in them are relative
        to the recipe, as in the file.

    Raises:
        RecipeError: with file, line and key of each problem, and the nearest right name.
    """
    scales = _scales(read(path))
    names = [name for name in scales if name]
    if scale not in (None, "auto", *names):
        known = f"one of its scales{nearest(scale, names)}" if names else "a scale: it has none"
        raise RecipeError(f"{path}: '{scale}' is not {known}")
    as_written = {name: _validated(path, name, tree) for name, tree in scales.items()}

    def load(name: str) -> LoadedRecipe:
        tree = apply_sets(scales[name], overrides)
        recipe = _validated(path, name, tree) if overrides else as_written[name]
        return LoadedRecipe(recipe, path, name or None, "", tree)

    if scale in names or not names:
        return load(scale if scale in names else "")
    return _largest_that_fits(names, load)


def check_ready(loaded: LoadedRecipe) -> None:
    """Check what only a run needs: the shards, the device, a model that can do what is asked.

    Raises:
        RecipeError: one is missing.
    """
    _raise_if_any(checks.check_ready(loaded.recipe), loaded.tree, loaded.scale)


def write_resolved(recipe: Recipe, path: Path) -> None:
    """Write every value of a recipe; `load_recipe` reads an equal one back."""
    with atomic_path(path) as temporary:
        temporary.write_text(to_yaml(recipe), encoding="utf-8")


def to_yaml(recipe: Recipe) -> str:
    """Return every value of a recipe as YAML."""
    return yaml.safe_dump(recipe.model_dump(), sort_keys=False, allow_unicode=True)


def _scales(root: Node) -> dict[str, Node]:
    """Return the recipe at each scale, in the file's order; under '' where it has none."""
    scales = root.child("scales")
    base = Node({key: node for key, node in root.value.items() if key != "scales"}, root.where)
    if scales is None:
        return {"": base}
    if not isinstance(scales.value, dict) or not scales.value:
        raise RecipeError(f"{scales.where}: scales: write `name:` and under it what differs")
    trees = {}
    for name, over in scales.value.items():
        over = Node({}, over.where) if over.value is None else over
        if not isinstance(over.value, dict) or name == "auto":
            what = "that name is taken" if name == "auto" else "write what differs under it"
            raise RecipeError(f"{over.where}: scales.{name}: {what}")
        trees[str(name)] = overlay(base, over)
    return trees


def _largest_that_fits(names: Sequence[str], load: Callable[[str], LoadedRecipe]) -> LoadedRecipe:
    """Load the last scale that fits this machine, or the first where none does."""
    from nasvid.planning.plan import fit

    *larger, smallest = [load(name) for name in reversed(names)]
    for loaded in larger:
        fits, why = fit(loaded.recipe)
        if fits:
            return replace(loaded, why=f"scale {loaded.scale}: {why}")
    return replace(smallest, why=f"scale {smallest.scale}: {fit(smallest.recipe)[1]}")


def _validated(path: Path, scale: str, tree: Node) -> Recipe:
    """Return the recipe of a tree, with absolute paths, or raise every problem it has."""
    base = path.resolve().parent
    _raise_if_any(_load_plugins(tree, base), tree, scale)
    try:
        recipe = Recipe.model_validate(tree.plain())
    except ValidationError as error:
        _raise_if_any(problems_of(error, tree), tree, scale)
        raise
    _raise_if_any(checks.check(recipe), tree, scale)
    return _absolute(recipe, base)


def _load_plugins(tree: Node, base: Path) -> Iterator[Problem]:
    named = tree.child("plugins")
    for i, node in enumerate(named.value if named and isinstance(named.value, list) else []):
        try:
            plugins.load_file(base / str(node.value))
        except plugins.PluginError as error:
            yield Problem(("plugins", i), str(error))


def _absolute(recipe: Recipe, base: Path) -> Recipe:
    def absolute(spec: str | list[str]) -> Any:
        if isinstance(spec, list):
            return [absolute(one) for one in spec]
        if EMBEDDED_NAME.fullmatch(spec) or is_url(spec):
            return spec
        return str(base / spec)

    data = {"train": absolute(recipe.data.train), "val": absolute(recipe.data.val)}
    if recipe.data.cache != "run":
        data["cache"] = str((base / recipe.data.cache).resolve())
    files = tuple(str(base / file) for file in recipe.plugins)
    update = {"data": recipe.data.model_copy(update=data), "plugins": files}
    model = recipe.text.options.get("path")
    if model and (base / model).exists():  # else it is the name of a model on a hub
        found = recipe.text.options | {"path": str(base / model)}
        update["text"] = TextSection.model_validate({"name": recipe.text.name, **found})
    if recipe.vae is not None:
        update["vae"] = recipe.vae.model_copy(update=_vae_paths(recipe.vae, base))
    own = recipe.training.engine.options.get("config")
    if own:
        update["training"] = recipe.training.model_copy(
            update={"engine": recipe.training.engine.with_options(config=str(base / own))}
        )
    start = recipe.supernet
    if start is not None and (base / start.init_from).exists():
        found = {"init_from": str(base / start.init_from)}
        update["supernet"] = start.model_copy(update=found)
    return recipe.model_copy(update=update)


def _vae_paths(vae: VaeSection, base: Path) -> dict[str, str]:
    paths = {}
    if vae.path != "embedded" and (base / vae.path).exists():
        paths["path"] = str(base / vae.path)
    if vae.cache not in ("run", "none"):
        paths["cache"] = str((base / vae.cache).resolve())
    return paths


def _raise_if_any(problems: Iterable[Problem], tree: Node, scale: str | None) -> None:
    """Raise the first few problems as one error, each with its place."""
    problems = list(problems)
    if not problems:
        return
    lines = [
        f"{tree.place(problem.path)}: {problem.setting}: {problem.message}"
        for problem in problems[:SHOWN]
    ]
    more = len(problems) - SHOWN
    if more > 0:
        lines.append(f"and {more} more")
    if scale:
        lines[-1] += f" (at scale '{scale}')"
    raise RecipeError("\n".join(lines))
