"""The list of plug-ins, read from their source text: none is imported to be listed."""

from __future__ import annotations

import ast
from dataclasses import asdict
from importlib.util import find_spec
from inspect import getdoc
from pathlib import Path
from typing import Any

from nasvid.errors import UserError, nearest
from nasvid.plugins import KINDS, Origin, available, load


def entries(kind: str | None = None) -> list[dict[str, str]]:
    """Return kind, name, source, target and summary of each plug-in.

    Raises:
        UserError: there is no such kind.
    """
    if kind is not None and kind not in KINDS:
        raise UserError(f"'{kind}' is not a kind of plug-in{nearest(kind, KINDS)}")
    return [
        asdict(plugin) | {"summary": summary(plugin)}
        for each in ([kind] if kind else KINDS)
        for plugin in available(each).values()
    ]


def details(name: str) -> tuple[dict[str, str], list[dict[str, Any]]]:
    """Return a plug-in's entry and its options; `name` may be `kind/name`.

    Raises:
        UserError: no plug-in has the name, or plug-ins of two kinds.
    """
    from nasvid.recipe.schema import settings

    kind, slash, short = name.rpartition("/")
    every = entries(kind if slash else None)
    found = [entry for entry in every if entry["name"] == short]
    if not found:
        raise UserError(f"No plug-in '{short}'{nearest(short, [entry['name'] for entry in every])}")
    if len(found) > 1:
        full = " or ".join(f"{entry['kind']}/{short}" for entry in found)
        raise UserError(f"'{short}' is the name of several plug-ins; write {full}")
    cls: Any = load(found[0]["kind"], short)
    return found[0] | {"text": getdoc(cls) or ""}, [s.to_json() for s in settings(cls.Config)]


def summary(plugin: Origin) -> str:
    """Return the first line of a plug-in's docstring, or "" if its source has none."""
    module, _, name = plugin.target.partition(":")
    definition = _definition(module, name)
    text = ast.get_docstring(definition) if definition is not None else None
    return (text or "").partition("\n")[0]


def _definition(module: str, name: str) -> ast.ClassDef | None:
    """Find a class in a module's source, or in the module that it is imported from."""
    path = _source(module)
    if path is None:
        return None
    for node in ast.parse(path.read_text(encoding="utf-8")).body:
        if isinstance(node, ast.ClassDef) and node.name == name:
            return node
        if isinstance(node, ast.ImportFrom) and node.module and not node.level:
            original = {alias.asname or alias.name: alias.name for alias in node.names}
            if name in original:
                return _definition(node.module, original[name])
    return None


def _source(module: str) -> Path | None:
    """Return a module's file, found through its top-level package without importing anything."""
    top, *rest = module.split(".")
    spec = find_spec(top)
    if spec is None or spec.origin is None:
        return None
    path = Path(spec.origin).parent.joinpath(*rest) if rest else Path(spec.origin)
    candidates = (path, path.with_suffix(".py"), path / "__init__.py")
    return next((file for file in candidates if file.is_file()), None)
