"""YAML with the position of each value, so that an error can point to its cause."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from decimal import Decimal
from pathlib import Path
from typing import Any

import yaml

from nasvid.errors import UserError, nearest

Key = str | int


class RecipeError(UserError):
    """A recipe is invalid; the message says where, which key and what would be valid."""


LARGEST_FILE = 1 << 18
"""Most bytes of a recipe: the longest that ships has three thousand."""
DEEPEST = 30
"""Most levels of nested sections and lists."""
LONGEST_NUMBER = 40
"""Most characters of a number."""

_NUMBER = re.compile(r"[-+]?(\d+\.?\d*|\.\d+)([eE][-+]?\d+)?")
_PLAIN = re.compile(r"~|null|Null|NULL|true|True|TRUE|false|False|FALSE|[-+]?\.(inf|nan)|", re.I)
_HINTS = {"bool": "true or false", "merge": "the entries themselves", "value": "a value"}
_CONTROL = re.compile("[\0-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f\ud800-\udfff]")


class _Loader(yaml.SafeLoader):
    """PyYAML's safe loader without tags, aliases and deep nesting; `1e-3` is a number."""

    depth = 0

    def compose_node(self, parent: Any, index: Any) -> Any:
        """Read one value.

        Raises:
            yaml.MarkedYAMLError: it is an alias, has a tag, or is too deep.
        """
        event: Any = self.peek_event()
        refused = None
        if isinstance(event, yaml.AliasEvent):
            refused = "aliases (`*name`) are not supported in recipes; repeat the value"
        elif event.tag is not None:
            tag = event.tag.replace("tag:yaml.org,2002:", "!!")
            refused = f"tags (`{tag}`) are not supported in recipes; remove it"
        elif self.depth > DEEPEST:
            refused = f"more than {DEEPEST} sections and lists inside one another"
        if refused:
            raise yaml.MarkedYAMLError(problem=refused, problem_mark=event.start_mark)
        self.depth += 1
        node = super().compose_node(parent, index)
        self.depth -= 1
        return node


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
        """Return the value without positions."""
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
        """Return where a setting, or else its enclosing section, was written: `recipe.yaml:12`."""
        return self.deepest(path)[0].where


def read(path: Path) -> Node:
    """Read a YAML file that holds one mapping.

    Raises:
        RecipeError: the file cannot be read, is not YAML, or has a key twice.
    """
    try:
        with path.open("rb") as file:
            content = file.read(LARGEST_FILE + 1)
        text = content[:LARGEST_FILE].decode("utf-8-sig")
    except (OSError, ValueError) as error:  # ValueError: not UTF-8, or a NUL in the path
        beside = [str(file) for file in path.parent.glob("*.yaml")] if not path.exists() else []
        why = _unreadable(error)
        raise RecipeError(f"Recipe {path} {why}{nearest(path, beside) if beside else ''}") from None
    if len(content) > LARGEST_FILE:
        raise RecipeError(f"{path} is not a recipe; it is larger than {LARGEST_FILE >> 10} KiB")
    node = _parse(text, str(path), lines=True)
    if not isinstance(node.value, dict):
        found = {type(None): "empty", list: "a list", str: "text"}.get(type(node.value), "a number")
        raise RecipeError(f"{path}: a recipe must be a mapping of sections, but this is {found}")
    return node


def _unreadable(error: OSError | ValueError) -> str:
    if isinstance(error, OSError):
        return f"cannot be read: {error.strerror}"
    return f"is not UTF-8 text: {getattr(error, 'reason', error)}"


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
    except yaml.MarkedYAMLError as error:
        hint = "; indent with spaces, not tabs" if "\\t" in (error.problem or "") else ""
        problem = f"not YAML: {error.problem or error.context}{hint}"
        raise RecipeError(f"{place(error.problem_mark or error.context_mark)}: {problem}") from None
    except (yaml.YAMLError, ValueError, OverflowError, RecursionError) as error:
        raise RecipeError(f"{source}: not YAML: {error}") from None
    return Node(None, source) if root is None else _located(loader, root, place)


def _located(loader: _Loader, node: Any, place: Any) -> Node:
    where = place(node.start_mark)
    if isinstance(node, yaml.SequenceNode):
        return Node([_located(loader, item, place) for item in node.value], where)
    if isinstance(node, yaml.MappingNode):
        return Node(dict(_entries(loader, node, place)), where)
    return Node(_scalar(loader, node, where), where)


def _scalar(loader: _Loader, node: Any, where: str) -> Any:
    """Return a plain value; one that YAML versions or people may read differently is an error."""
    text = node.value
    if _CONTROL.search(text):
        raise RecipeError(f"{where}: {text[:60]!a} has a control character; remove it")
    if node.tag == "tag:yaml.org,2002:str" and not (node.style is None and _odd(text)):
        return text
    if not _PLAIN.fullmatch(text) and (_odd(text) or not _NUMBER.fullmatch(text)):
        hint = _HINTS.get(node.tag.rpartition(":")[2], "a number as digits, 1500 or 1.5e-3")
        raise RecipeError(
            f"{where}: {text[:60]} may be read in several ways; write {hint}, or text in quotes"
        )
    if _NUMBER.fullmatch(text) and len(text) > LONGEST_NUMBER:
        raise RecipeError(f"{where}: a number has at most {LONGEST_NUMBER} characters")
    value = loader.construct_object(node)
    exponent = isinstance(value, float) and "e" in text.lower() and value.is_integer()
    return int(Decimal(text)) if exponent else value  # 1e6 is a whole number


def _odd(text: str) -> bool:
    """Return whether only some readers take a text for a number: `010`, `0x1F`, `0o17`."""
    return re.fullmatch(r"[-+]?0(\d[\d_.eE+-]*|[xob][\da-fA-F_]+)", text) is not None


def _entries(loader: _Loader, node: Any, place: Any) -> Iterator[tuple[Key, Node]]:
    """Yield the entries of a mapping, each at the position of its key."""
    lines: dict[Key, str] = {}
    for key_node, value_node in node.value:
        where = place(key_node.start_mark)
        key = None
        if isinstance(key_node, yaml.ScalarNode):
            key = _scalar(loader, key_node, where)
        if not isinstance(key, str | int) or isinstance(key, bool):
            raise RecipeError(f"{where}: a key must be a word or a whole number")
        if key in lines:
            raise RecipeError(f"{where}: '{key}' is given twice, first at {lines[key]}")
        lines[key] = where
        yield key, Node(_located(loader, value_node, place).value, where)
