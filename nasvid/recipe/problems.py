"""Describes problems of a recipe: pydantic's errors, with the most similar valid name."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from itertools import groupby
from typing import Any

from pydantic import ValidationError

from nasvid.errors import nearest
from nasvid.host.words import counted
from nasvid.plugins import PluginError
from nasvid.recipe import schema, sections
from nasvid.recipe.nodes import Key, Node

SHOWN = 5
"""Number of problems reported at a time."""
EXPECTED = {
    "model_type": "a section of `key: value` lines",
    "dict_type": "a section of `key: value` lines",
    "list_type": "a list",
    "tuple_type": "a list",
    "int_type": "a whole number",
    "int_parsing": "a whole number",
    "int_from_float": "a whole number",
    "int_parsing_size": "a smaller whole number",
    "float_type": "a number",
    "float_parsing": "a number",
    "finite_number": "a finite number",
    "bool_type": "true or false",
    "bool_parsing": "true or false",
    "string_type": "text",
    "string_too_short": "text of at least {min_length} characters",
    "string_too_long": "text of at most {max_length} characters",
    "greater_than_equal": "at least {ge:.15g}",
    "less_than_equal": "at most {le:.15g}",
}
"""Type of pydantic's error -> what was expected, where pydantic's own text speaks of Python."""
FORMS = {
    sections.RUN_NAME: "letters, digits, dots, dashes and underscores, the first a letter or digit",
    sections.DEVICE: "auto, cpu, cuda or cuda:N",
}
"""Pattern of a setting's text -> the texts that it allows, in words."""
LENGTHS = {"too_short": ("at least", "min_length"), "too_long": ("at most", "max_length")}
"""Type of pydantic's error about a list or a section -> its bound, and the bound's key."""
UNION_MEMBER = re.compile(r"(list|tuple|dict)\[")
"""Pydantic's label for a member of a union that has entries of its own."""


@dataclass(frozen=True, slots=True)
class Problem:
    """One problem: the setting at fault and why.

    path: keys and list indices from the recipe's root; the last may be missing in the file.
    """

    path: tuple[Key, ...]
    message: str

    @property
    def setting(self) -> str:
        """The dotted name, `search.evaluators[0].name`."""
        parts = (f"[{key}]" if isinstance(key, int) else f".{key}" for key in self.path)
        return "".join(parts).lstrip(".")


def problems_of(error: ValidationError, tree: Node) -> list[Problem]:
    """Return the problems behind a validation error, one per setting at fault.

    Only the first `SHOWN` have a message: to find the nearest name takes a moment.
    """
    found = [(_path(fault, tree), fault) for fault in error.errors()]
    inside = {path[:n] for path, _ in found for n in range(len(path))}
    # What a list or a section must be is no second problem beside one of its entries.
    faults = [(path, fault) for path, fault in found if path not in inside]
    return [
        Problem(path, _message(path, [f for _, f in group], tree) if number < SHOWN else "")
        for number, (path, group) in enumerate(groupby(faults, key=lambda pair: pair[0]))
    ]


def _path(fault: Any, tree: Node) -> tuple[Key, ...]:
    """Return the path of a fault without pydantic's labels for the members of a union."""
    node, path = tree.deepest(_without_labels(fault["loc"], tree))
    if fault["type"] == "missing":
        return (*path, fault["loc"][-1])
    unknown_plugin = isinstance(fault.get("ctx", {}).get("error"), PluginError)
    return (*path, "name") if unknown_plugin and node.child("name") else path


def _without_labels(loc: Sequence[Key], tree: Node) -> list[Key]:
    """Return a location without the members of unions in it, such as `list[str]`."""
    kept = list[Key]()
    for key in loc:
        node, followed = tree.deepest(kept)
        if len(followed) < len(kept) or not UNION_MEMBER.match(str(key)) or node.child(key):
            kept.append(key)
    return kept


def _message(path: tuple[Key, ...], faults: list[Any], tree: Node) -> str:
    fault = faults[0]
    if fault["type"] in ("extra_forbidden", "invalid_key"):
        return _unknown_key(path, tree)
    if fault["type"] == "missing":
        return _missing(path, tree)
    if fault["type"] in ("value_error", "assertion_error"):
        return str(fault["ctx"]["error"])
    if fault["loc"][-1] == "[key]":
        return f"the key must be {_expected(fault)}, not {_shown(fault['input'])}"
    return wrong_value(faults)


def wrong_value(faults: list[Any]) -> str:
    """Return what a value must be, from pydantic's errors about it, one for each of its types."""
    given = faults[0]["input"]
    if _is_list_by_numbers(faults, given):
        return "has no entries in the recipe to change by number; write the whole list"
    options = [option for fault in faults for option in _options(fault)]
    hint = nearest(given, options) if get_close_matches(str(given), options) else ""
    return f"must be {' or '.join(map(_expected, faults))}, not {_shown(given)}{hint}"


def _is_list_by_numbers(faults: list[Any], given: Any) -> bool:
    """Return whether entries of a list were set by their numbers where the recipe has none."""
    lists = {"list_type", "tuple_type"}
    numbers = isinstance(given, dict) and all(str(key).isdecimal() for key in given)
    return bool(given) and numbers and not lists.isdisjoint(fault["type"] for fault in faults)


def _shown(given: Any) -> str:
    return json.dumps(given, default=str, ensure_ascii=False)[:60]


def _expected(fault: Any) -> str:
    kind, bounds = fault["type"], fault.get("ctx", {})
    if kind in LENGTHS:
        how, key = LENGTHS[kind]
        if bounds["field_type"] == "Dictionary":
            return f"a section of {how} {counted(bounds[key], 'entry', 'entries')}"
        return f"a list of {how} {counted(bounds[key], 'item')}"
    if kind == "string_pattern_mismatch":
        return FORMS.get(bounds["pattern"], f"text that matches {bounds['pattern']}")
    said = fault["msg"].removeprefix("Input should be ")
    return EXPECTED[kind].format_map(bounds) if kind in EXPECTED else said


def _options(fault: Any) -> Iterator[str]:
    if fault["type"] == "literal_error":
        yield from re.findall(r"'([^']*)'", fault["ctx"]["expected"])


def _missing(path: tuple[Key, ...], tree: Node) -> str:
    if isinstance(path[-1], int):
        return "missing; the list needs another item"
    model = schema.model_at(path[:-1], tree.plain())
    field = model.model_fields.get(str(path[-1])) if model is not None else None
    described = " ".join((field.description or "").split()) if field is not None else ""
    return f"missing: {described}" if described else "missing"


def _unknown_key(path: tuple[Key, ...], tree: Node) -> str:
    *section, key = path
    place = Problem(tuple(section), "").setting
    model = schema.model_at(section, tree.plain())
    known = list(model.model_fields) if model is not None else []
    hint = nearest(key, known)
    others = [prefix for prefix, other in schema.sections() if key in other.model_fields]
    if others and not get_close_matches(str(key), known):
        around = [prefix for prefix in others if place.startswith(prefix)]
        owner = (around or others)[0]
        hint = f"; did you mean '{owner}.{key}'?" if owner else f"; move '{key}' to the top level"
    return f"unknown setting of '{place}'{hint}" if place else f"unknown section{hint}"
