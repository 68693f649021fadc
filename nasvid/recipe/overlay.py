"""How scales and `--set` change a recipe before it is validated."""

from __future__ import annotations

import re
from collections.abc import Iterable

import yaml

from nasvid.plugins.config import Typed
from nasvid.recipe.nodes import LONGEST_NUMBER, Key, Node, RecipeError, parse_value

REPLACED = ("resolutions",)
"""Sections that a scale replaces as a whole."""
SET = "--set "
"""Start of the position of a value from an option."""

yaml.SafeDumper.add_representer(Typed, yaml.SafeDumper.represent_str)


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

    A key that has a dot or an equals sign is quoted: `a."b.c"=value`; an entry of a list has its
    number: `a[0].b=value`. A different plug-in `name` drops the options of the previous plug-in.
    Paths in a value are relative to the current folder, where it was typed.

    Raises:
        RecipeError: an option does not have this form, or names no entry of a list.
    """
    for option in options:
        where = SET + option
        keys, text = _split(option, where)
        if keys[0] == "scales":
            raise RecipeError(f"{where}: scales are changed in the file; choose one with --scale")
        tree = _put(tree, keys, _typed(parse_value(text, where)), top=True)
    return tree


def _typed(node: Node) -> Node:
    value = node.value
    if isinstance(value, dict):
        return Node({key: _typed(each) for key, each in value.items()}, node.where)
    if isinstance(value, list):
        return Node([_typed(each) for each in value], node.where)
    return Node(Typed.here(value), node.where) if isinstance(value, str) else node


_STEP = re.compile(r"""\.\s*(?:"([^"]+)"|'([^']+)'|([^\s.="'\[]+))\s*|\[(\d{1,9})\]\s*""")
"""One key of a path, with the dot before it, or the number of a list's entry."""


def _split(option: str, where: str) -> tuple[list[str], str]:
    """Return the keys of an option, and the text of its value."""
    text, keys, at = f".{option.lstrip()}", list[str](), 0
    while not text.startswith("=", at):
        step = _STEP.match(text, at)
        if step is None:
            raise RecipeError(
                f"{where}: write --set section.key=value, and quotes around a key with a dot"
            )
        keys.append(next(filter(None, step.groups())))
        at = step.end()
    return keys, text[at + 1 :]


def _put(tree: Node, keys: list[str], value: Node, *, top: bool = False) -> Node:
    if isinstance(tree.value, list) and keys[0].isdecimal() and len(keys[0]) <= LONGEST_NUMBER:
        return _put_into_list(tree, keys, value)
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


def _put_into_list(tree: Node, keys: list[str], value: Node) -> Node:
    entries, number = list(tree.value), int(keys[0])
    if number >= len(entries):
        has = f"has entries 0 to {len(entries) - 1}" if entries else "is empty"
        raise RecipeError(f"{value.where}: there is no entry {number}: the list {has}")
    entries[number] = _put(entries[number], keys[1:], value) if keys[1:] else value
    return Node(entries, tree.where)


def _key(children: dict[Key, Node], text: str) -> Key:
    """Return a key as YAML would read it: `64` in `resolutions.64.batch` is a number."""
    number = text.isdecimal() and len(text) <= LONGEST_NUMBER
    return int(text) if number and text not in children else text
