"""YAML with the place of each value, so that an error can point to its cause."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from nasvid.errors import UserError, nearest

Key = str | int


class RecipeError(UserError):
    """A recipe is invalid; the message says where, which key and what would be valid."""


class _Loader(yaml.SafeLoader):
    """PyYAML's safe loader, but `1e-3` is a number, as in YAML 1.2."""


_Loader.yaml_implicit_resolvers = dict(yaml.SafeLoader.yaml_implicit_resolvers)
_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float", re.compile(r"[-+]?\d+(\.\d*)?[eE][-+]?\d+"), list("-+0123456789")
)


@dataclass(frozen=True, slots=True)
class Node:
    """One value of a recipe and where it comes from: `recipe.yaml:12`, or a `--set` option.

    value: a mapping of nodes, a list of nodes, or a plain scalar.
    """

    value: Any
    where: str

    def plain(self) -> Any:
        """Return the value without places."""
        if isinstance(self.value, dict):
            return {key: node.plain() for key, node in self.value.items()}
        if isinstance(self.value, list):
            return [node.plain() for node in self.value]
        return self.value

    def child(self, key: Key) -> Node | None:
        """Return the node under a key or list index, or None."""
        if isinstance(self.value, dict):
            return self.value.get(key)
        if isinstance(self.value, list) and isinstance(key, int) and key < len(self.value):
            return self.value[key]
        return None

    def deepest(self, path: Iterable[Key]) -> tuple[Node, tuple[Key, ...]]:
        """Follow a path as far as it exists; return the last node and the path to it."""
        node, followed = self, ()
        for key in path:
            below = node.child(key)
            if below is None:
                break
            node, followed = below, (*followed, key)
        return node, followed

    def place(self, path: Iterable[Key]) -> str:
        """Return where a setting, or else what encloses it, was written: `recipe.yaml:12`."""
        return self.deepest(path)[0].where


def read(path: Path) -> Node:
    """Read a YAML file that holds one mapping.

    Raises:
        RecipeError: the file cannot be read, is not YAML, or has a key twice.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except OSError as error:
        beside = [str(file) for file in path.parent.glob("*.yaml")]
        hint = nearest(path, beside) if beside and not path.exists() else ""
        raise RecipeError(f"Recipe {path} cannot be read: {error.strerror}{hint}") from error
    except UnicodeDecodeError as error:
        raise RecipeError(f"Recipe {path} is not UTF-8 text: {error.reason}") from error
    node = _parse(text, str(path), lines=True)
    if not isinstance(node.value, dict):
        found = "empty" if node.value is None else f"a {type(node.value).__name__}"
        raise RecipeError(f"{path}: a recipe must be a mapping of sections, but this is {found}")
    return node


def parse_value(text: str, where: str) -> Node:
    """Read the YAML value of a command line option.

    Raises:
        RecipeError: it is not YAML.
    """
    return _parse(text, where, lines=False)


def _parse(text: str, source: str, *, lines: bool) -> Node:
    def place(mark: Any) -> str:
        return f"{source}:{mark.line + 1}" if lines and mark is not None else source

    try:
        loader = _Loader(text)
        root = loader.get_single_node()
        return Node(None, source) if root is None else _located(loader, root, place, set())
    except RecipeError:
        raise
    except yaml.MarkedYAMLError as error:
        hint = "; indent with spaces, not tabs" if "\\t" in (error.problem or "") else ""
        problem = f"not YAML: {error.problem or error.context}{hint}"
        raise RecipeError(f"{place(error.problem_mark or error.context_mark)}: {problem}") from None
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        raise RecipeError(f"{source}: not YAML: {error}") from None


def _located(loader: _Loader, node: Any, place: Any, seen: set[int]) -> Node:
    where = place(node.start_mark)
    if id(node) in seen:
        raise RecipeError(
            f"{where}: aliases (`*name`) are not supported in recipes; repeat the value"
        )
    seen.add(id(node))
    if isinstance(node, yaml.SequenceNode):
        return Node([_located(loader, item, place, seen) for item in node.value], where)
    if isinstance(node, yaml.MappingNode):
        return Node(dict(_entries(loader, node, place, seen)), where)
    return Node(loader.construct_object(node), where)


def _entries(loader: _Loader, node: Any, place: Any, seen: set[int]) -> Iterator[tuple[Key, Node]]:
    """Yield the entries of a mapping, each placed at its key."""
    lines: dict[Key, str] = {}
    for key_node, value_node in node.value:
        where = place(key_node.start_mark)
        key = loader.construct_object(key_node) if isinstance(key_node, yaml.ScalarNode) else None
        if not isinstance(key, str | int) or isinstance(key, bool):
            raise RecipeError(f"{where}: a key must be a word or a whole number")
        if key in lines:
            raise RecipeError(f"{where}: '{key}' is given twice, first at {lines[key]}")
        lines[key] = where
        yield key, Node(_located(loader, value_node, place, seen).value, where)
