"""Reads a recipe from a file, and writes one to a file."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cache, cached_property
from pathlib import Path

import yaml
from pydantic import ValidationError

from nasvid import plugins
from nasvid.errors import nearest
from nasvid.host.files import atomic_path
from nasvid.host.reading import damage
from nasvid.host.words import after_colon
from nasvid.preflight import checks, named
from nasvid.preflight.inherit import inherited, unreadable_vae, with_factors
from nasvid.recipe.nodes import Node, RecipeError, read
from nasvid.recipe.overlay import SET, apply_sets, overlay
from nasvid.recipe.problems import SHOWN, Problem, problems_of
from nasvid.recipe.sections import Recipe
from nasvid.space import SearchSpace
from nasvid.text_encoder import TextEncoder

END = "# End of the recipe.\n"
"""The last line of a recipe that a run has written."""


@dataclass(frozen=True, slots=True)
class LoadedRecipe:
    """A valid recipe and where it came from.

    recipe: with absolute paths.
    scale: the name of the scale that was used, or None if the file has none.
    tree: the values as written; `tree.place(("training", "steps"))` says where.
    text, space: the text encoder and the search space, already made by the checks.
    why: one line on how `auto` chose the scale, or "".
    """

    recipe: Recipe
    path: Path
    scale: str | None
    tree: Node
    text: TextEncoder
    space: SearchSpace
    why: str = ""


def load_recipe(
    path: Path,
    *,
    scale: str | None = None,
    overrides: Sequence[str] = (),
    prepared: Callable[[Node], Node] = lambda tree: tree,
) -> LoadedRecipe:
    """Read a recipe; every scale in the file is validated, not only the one that is used.

    scale: a name among the file's `scales`; None or `auto` for the largest that fits this machine.
    overrides: `section.key=value`, applied after the scale, in order, before anything is validated:
        they may give what the file lacks, and correct what is wrong in it. Paths in them are
        relative to the current folder, those in the file to the file.
    prepared: called with what the file says, before any of it is used, plug-in files included;
        returns what is used instead.

    Raises:
        RecipeError: with file, line and key of each problem, and the nearest valid name.
    """
    scales = _scales(prepared(read(path)))
    names = [name for name in scales if name]
    if scale not in (None, "auto", *names):
        known = f"has no scale '{scale}'{nearest(scale, names)}" if names else "has no scales"
        raise RecipeError(f"{path} {known}")
    attempts = {name: Attempt(path, name, tree) for name, tree in scales.items()}

    @cache
    def load(name: str) -> LoadedRecipe:
        return attempts[name].with_sets(overrides).require()

    for name, attempt in attempts.items():
        if attempt.problems:
            load(name)
    if scale in names or not names:
        return load(scale if scale in names else "")
    return _largest_that_fits(names, load)


def check_ready(loaded: LoadedRecipe) -> None:
    """Check what only a run needs: what `check_named` checks, device, packages, features.

    Raises:
        RecipeError: something is missing.
    """
    problems = [
        *checks.check_ready(loaded.recipe, loaded.space),
        *named.check_named(loaded.recipe, loaded.text, loaded.space),
    ]
    problems = problems or [*named.check_hub(loaded.recipe, loaded.text, loaded.space)]
    _raise_if_any(problems, lambda problem: loaded.tree.place(problem.path), loaded.scale)


def check_named(loaded: LoadedRecipe) -> None:
    """Check everything that a recipe names: shards, text encoder, VAE, the model to start from.

    Raises:
        RecipeError: something is missing, damaged, or does not match the recipe.
    """
    problems = named.check_named(loaded.recipe, loaded.text, loaded.space)
    _raise_if_any(problems, lambda problem: loaded.tree.place(problem.path), loaded.scale)


def write_resolved(recipe: Recipe, path: Path) -> None:
    """Write every value of a recipe; `load_recipe` reads an equal one back."""
    text = to_yaml(recipe) + END
    with atomic_path(path, needed=len(text)) as temporary:
        temporary.write_text(text, encoding="utf-8")


def check_whole(path: Path) -> None:
    """Check that a file that `write_resolved` has written still has its end.

    What is left of one that was cut short may be a recipe too, a different one.

    Raises:
        Damaged: it has not.
    """
    with damage(path, fix="restore it from a copy, without which the run cannot be used"):
        if END.strip() not in path.read_text(encoding="utf-8").splitlines():
            raise ValueError("its last line is missing")


def to_yaml(recipe: Recipe) -> str:
    """Return every value of a recipe as YAML."""
    return yaml.safe_dump(recipe.model_dump(), sort_keys=False, allow_unicode=True)


def _scales(root: Node) -> dict[str, Node]:
    """Return the recipe at each scale, in the file's order; under '' if it has none."""
    scales = root.child("scales")
    base = Node({key: node for key, node in root.value.items() if key != "scales"}, root.where)
    if scales is None:
        return {"": base}
    if not isinstance(scales.value, dict) or not scales.value:
        raise RecipeError(
            f"{scales.where}: scales: must be a mapping; write `name:` and the changes below it"
        )
    trees = {}
    for name, over in scales.value.items():
        over = Node({}, over.where) if over.value is None else over
        if not isinstance(over.value, dict) or name == "auto":
            what = "the name is reserved" if name == "auto" else "write what differs below it"
            raise RecipeError(f"{over.where}: scales.{name}: {what}")
        trees[str(name)] = overlay(base, over)
    return trees


def _largest_that_fits(names: Sequence[str], load: Callable[[str], LoadedRecipe]) -> LoadedRecipe:
    """Load the last scale that fits this machine, or the first if none does."""
    from nasvid.planning.plan import fit

    *larger, smallest = [load(name) for name in reversed(names)]
    for loaded in larger:
        fits, why = fit(loaded.recipe)
        if fits:
            return replace(loaded, why=f"scale {loaded.scale}: {why}")
    return replace(smallest, why=f"scale {smallest.scale}: {fit(smallest.recipe)[1]}")


@dataclass(frozen=True, eq=False)
class Attempt:
    """Reading a recipe at one scale, with the overrides so far.

    before: without the last of them, `option`; None if there are none.
    """

    path: Path
    scale: str
    tree: Node
    option: str = ""
    before: Attempt | None = None

    def with_sets(self, options: Iterable[str]) -> Attempt:
        """Return the attempt to read it with these overrides."""
        attempt = self
        for option in options:
            tree = apply_sets(attempt.tree, [option])
            attempt = Attempt(self.path, self.scale, tree, option, attempt)
        return attempt

    @property
    def problems(self) -> list[Problem]:
        """The problems; empty if there are none."""
        return self._read if isinstance(self._read, list) else []

    def require(self) -> LoadedRecipe:
        """Return the recipe, with absolute paths, or raise all its problems."""
        if isinstance(self._read, LoadedRecipe):
            return self._read
        _raise_if_any(self._read, self._place, self.scale)
        raise AssertionError

    @cached_property
    def _read(self) -> LoadedRecipe | list[Problem]:
        base = self.path.resolve().parent
        if problems := [*_load_plugins(self.tree, base)]:
            return problems
        try:
            recipe = Recipe.model_validate(self.tree.plain(), context={"folder": base})
        except ValidationError as error:
            return problems_of(error, self.tree)
        try:
            recipe = with_factors(inherited(recipe))
        except ValueError as error:
            return [Problem(("supernet", "init_from"), str(error))]
        made = _made(recipe)
        if problems := checks.check(recipe, made if isinstance(made, Problem) else made[1]):
            return [*unreadable_vae(recipe)] or problems  # without it, little fits
        assert not isinstance(made, Problem)
        return LoadedRecipe(recipe, self.path, self.scale or None, self.tree, *made)

    def _place(self, problem: Problem) -> str:
        """Return where a problem was written: the option that caused it, or a line of the file."""
        attempt = self
        while attempt.before is not None and problem in attempt.problems:
            if not attempt.before.problems:
                return SET + attempt.option
            attempt = attempt.before
        return self.tree.place(problem.path)


def _made(recipe: Recipe) -> tuple[TextEncoder, SearchSpace] | Problem:
    """Return the text encoder and the space, or the problems that prevent it."""
    section = "text"
    try:
        text = recipe.text.make()
        _ = text.dim  # which a folder may have to say
        section = "space"
        return text, recipe.make_space(text)
    except ValueError as error:
        return Problem((section,), str(error))


def load_plugins(path: Path) -> None:
    """Import the plug-in files that a recipe names at any of its scales; nothing else is validated.

    Raises:
        RecipeError: the recipe cannot be read, or a file cannot be imported.
    """
    for scale, tree in _scales(read(path)).items():
        problems = _load_plugins(tree, path.resolve().parent)
        _raise_if_any(problems, lambda problem, tree=tree: tree.place(problem.path), scale)


def _load_plugins(tree: Node, base: Path) -> Iterator[Problem]:
    named = tree.child("plugins")
    for i, node in enumerate(named.value if named and isinstance(named.value, list) else []):
        try:
            plugins.load_file(getattr(node.value, "folder", base) / str(node.value))
        except plugins.PluginError as error:
            yield Problem(("plugins", i), str(error))


def _raise_if_any(
    problems: Iterable[Problem], place: Callable[[Problem], str], scale: str | None
) -> None:
    """Raise the first few problems as one error, each with its place."""
    problems = list(problems)
    if not problems:
        return
    lines = [
        f"{place(problem)}: {problem.setting}: {after_colon(problem.message)}"
        for problem in problems[:SHOWN]
    ]
    more = len(problems) - SHOWN
    if more > 0:
        lines.append(f"and {more} more")
    if scale:
        lines[-1] += f" (at scale '{scale}')"
    raise RecipeError("\n".join(lines))
