"""Source that stands alone: a module with those of its own packages that it imports in it."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path

HEADER = """\
# Made by nasvid {version} of {module}; Apache License 2.0.
from __future__ import annotations

"""


def standalone(module: str) -> str:
    """Return the source of a module and, before it, of those of nasvid's and its own package.

    They must import names of each other as `from module import name`, at their top.

    Raises:
        ValueError: one is imported in another way, or two have a name in common.
    """
    sources = dict(_sources(module, {"nasvid", module.partition(".")[0]}, []))
    seen: dict[str, str] = {}
    for name, source in sources.items():
        for defined in _defined(source):
            if seen.setdefault(defined, name) != name:
                raise ValueError(f"{name} and {seen[defined]} both define {defined}")
    header = HEADER.format(version=version("nasvid"), module=module)
    return header + "\n\n\n".join(source.strip() for source in sources.values()) + "\n"


def _sources(module: str, own: set[str], done: list[str]) -> Iterator[tuple[str, str]]:
    """Yield a module's own imports first, then itself without them."""
    if module in done:
        return
    done.append(module)
    spec = find_spec(module)
    if spec is None or spec.origin is None:
        raise ValueError(f"{module} has no source")
    text = Path(spec.origin).read_text(encoding="utf-8")
    lines = text.splitlines()
    for node in ast.parse(text).body:
        is_ours = isinstance(node, ast.ImportFrom) and _top(node.module or "") in own
        if is_ours and isinstance(node, ast.ImportFrom):
            yield from _sources(node.module or "", own, done)
        elif isinstance(node, ast.Import) and any(_top(each.name) in own for each in node.names):
            raise ValueError(f"{module} imports a module as a whole; import names from it")
        if is_ours or _is_future(node):
            end = node.end_lineno or node.lineno
            lines[node.lineno - 1 : end] = [""] * (end - node.lineno + 1)
    yield module, "\n".join(lines)


def _top(module: str) -> str:
    return module.partition(".")[0]


def _is_future(node: ast.stmt) -> bool:
    return isinstance(node, ast.ImportFrom) and node.module == "__future__"


def _defined(source: str) -> Iterator[str]:
    """Yield the functions, classes and constants that a module defines."""
    for node in ast.parse(source).body:
        if isinstance(node, ast.FunctionDef | ast.ClassDef):
            yield node.name
        targets = node.targets if isinstance(node, ast.Assign) else []
        if isinstance(node, ast.AnnAssign):
            targets = [node.target]
        yield from (target.id for target in targets if isinstance(target, ast.Name))
