"""How scales and `--set` change a recipe before it is validated."""

from __future__ import annotations

from collections.abc import Iterable

from nasvid.plugins.config import Typed
from nasvid.recipe.nodes import Key, Node, RecipeError, parse_value

REPLACED = ("resolutions",)
"""Sections that a scale replaces as a whole."""


def overlay(base: Node, over: Node) -> Node:
    """Return `base` overlaid with a scale.

    Sections merge key by key. Lists, `resolutions`, and the section of a plug-in for which the
    scale names another plug-in are replaced as a whole.
    """
    merged = dict(base.value)
    for key, node in over.value.items():
        merged[key] = node if key in REPLACED else _merge(merged.get(key, node), node)
    return Node(merged, base.where)


def _merge(base: Node, over: Node) -> Node:
    if not isinstance(base.value, dict) or not isinstance(over.value, dict):
        return over
    if _renames(base, over.child("name")):
        return over
    merged = dict(base.value)
    for key, node in over.value.items():
        merged[key] = _merge(merged.get(key, node), node)
    return Node(merged, over.where)


def _renames(section: Node, name: Node | None) -> bool:
    known = section.child("name")
    return name is not None and known is not None and known.value != name.value


def apply_sets(tree: Node, options: Iterable[str]) -> Node:
    """Return `tree` with each `a.b=value` applied in order, replacing what was there.

    A different plug-in `name` drops the options of the previous plug-in. Paths in a value are
    relative to the current folder, where it was typed.

    Raises:
        RecipeError: an option does not have this form.
    """
    for option in options:
        where = f"--set {option}"
        path, equals, text = option.partition("=")
        keys = path.strip().split(".")
        if not equals or not all(keys):
            raise RecipeError(f"{where}: write --set section.key=value")
        tree = _put(tree, keys, _typed(parse_value(text, where)), top=True)
    return tree


def _typed(node: Node) -> Node:
    value = node.value
    if isinstance(value, dict):
        return Node({key: _typed(each) for key, each in value.items()}, node.where)
    if isinstance(value, list):
        return Node([_typed(each) for each in value], node.where)
    return Node(Typed.here(value), node.where) if isinstance(value, str) else node


def _put(tree: Node, keys: list[str], value: Node, *, top: bool = False) -> Node:
    inside = isinstance(tree.value, dict)
    children = dict(tree.value) if inside else {}
    where = tree.where if inside else value.where
    key = _key(children, keys[0])
    if len(keys) > 1:
        below = children.get(key, Node({}, value.where))
        return Node({**children, key: _put(below, keys[1:], value)}, where)
    if key == "name" and not top and _renames(tree, value):
        children = {}
    return Node({**children, key: value}, where)


def _key(children: dict[Key, Node], text: str) -> Key:
    """Return a key as YAML would read it: `64` in `resolutions.64.batch` is a number."""
    return int(text) if text.isdecimal() and text not in children else text
