"""Finding plug-ins: through entry points or a recipe's `plugins:`, imported only when named."""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from difflib import get_close_matches
from functools import cache
from importlib.metadata import EntryPoint, entry_points
from pathlib import Path
from typing import Any

from nasvid.errors import UserError

KINDS = (
    "spaces",
    "objectives",
    "samplers",
    "strategies",
    "evaluators",
    "text_encoders",
    "feature_extractors",
    "vaes",
    "engines",
)
"""The kinds of plug-in; the entry point group of a kind is `nasvid.<kind>`."""

_registered: dict[tuple[str, str], tuple[type, str]] = {}
_imported: set[str] = set()
"""Modules of other distributions that plug-ins were loaded from."""


class PluginError(UserError):
    """A plug-in is unknown, ambiguous or fails to import; the message says which and why."""


@dataclass(frozen=True, slots=True)
class Origin:
    """Where a plug-in comes from, known without importing it."""

    kind: str
    name: str
    source: str
    """The distribution that declares it, or the file of a recipe's `plugins:`."""
    target: str
    """`module:Class`."""


def register(kind: str, name: str) -> Any:
    """Register the decorated class as plug-in `name`: for files named in a recipe's `plugins:`.

    Raises:
        PluginError: the kind is unknown or another file has registered the name.
    """
    if kind not in KINDS:
        raise PluginError(f"'{kind}' is not a kind of plug-in; use one of {', '.join(KINDS)}")

    def decorate(cls: type) -> type:
        source = sys.modules[cls.__module__].__file__ or cls.__module__
        known = _registered.get((kind, name))
        if known is not None and known[1] != source:
            raise PluginError(
                f"{kind}/{name} is registered by both {known[1]} and {source}; rename one"
            )
        point = _entry_points(kind).get(name)
        if point is not None and point.value == f"{cls.__module__}:{cls.__qualname__}":
            return cls  # its installed package has already declared it
        if point is not None:
            taken = _distribution(point)
            raise PluginError(
                f"{kind}/{name} in {source} has the same name as a plug-in of {taken}; rename it"
            )
        _registered[kind, name] = (_checked(kind, name, cls), source)
        return cls

    return decorate


def load_file(path: Path) -> None:
    """Import a Python file so that the recipe can name the plug-ins that it registers.

    Raises:
        PluginError: the file does not exist or fails to import.
    """
    try:
        path = path.resolve()
        path.is_file()
    except (OSError, ValueError) as error:  # ValueError: a NUL
        why = getattr(error, "strerror", None) or error
        raise PluginError(f"Plug-in file {str(path)[:200]!r} cannot be read: {why}") from None
    name = f"nasvid_plugin_{path.stem}_{abs(hash(path)):x}"
    if any(getattr(module, "__file__", None) == str(path) for module in list(sys.modules.values())):
        return
    spec = importlib.util.spec_from_file_location(name, path)
    if not path.is_file() or spec is None or spec.loader is None:
        raise PluginError(f"Plug-in file {path} does not exist or is not Python")
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    try:
        spec.loader.exec_module(module)
    except (Exception, SystemExit) as error:
        _forget(name, str(path))
        if isinstance(error, PluginError):
            raise
        raise PluginError(
            f"Plug-in file {path} fails to import: {type(error).__name__}: {error}"
        ) from error


def singular(kind: str) -> str:
    """Return the singular name of a kind: `text encoder`."""
    return {"strategies": "strategy", "vaes": "VAE"}.get(
        kind, kind.removesuffix("s").replace("_", " ")
    )


def _forget(module: str, source: str) -> None:
    """Undo the effects of a file whose import failed, so that it can be fixed and loaded again."""
    del sys.modules[module]
    for key in [key for key, (_, known) in _registered.items() if known == source]:
        del _registered[key]


def available(kind: str) -> Mapping[str, Origin]:
    """Return the plug-ins of a kind by name, sorted, without importing any."""
    found = {
        name: Origin(kind, name, _distribution(point), point.value)
        for name, point in _entry_points(kind).items()
    }
    for (known_kind, name), (cls, source) in _registered.items():
        if known_kind == kind:
            found[name] = Origin(kind, name, source, f"{cls.__module__}:{cls.__qualname__}")
    return dict(sorted(found.items()))


def load(kind: str, name: str) -> type:
    """Import and return the class of a plug-in.

    Raises:
        PluginError: the name is unknown (the message suggests the most similar and lists all), two
            distributions declare it, or its module fails to import.
    """
    if (kind, name) in _registered:
        return _registered[kind, name][0]
    points = _entry_points(kind)
    if name not in points:
        known = available(kind)
        near = get_close_matches(name, known, n=1)
        hint = f"; did you mean '{near[0]}'?" if near else "."
        raise PluginError(
            f"No {singular(kind)} '{name}'{hint} Available: {', '.join(known)}. After adding a "
            "plug-in to a package, reinstall the package (pip install -e .)"
        )
    try:
        cls = points[name].load()
    except (Exception, SystemExit) as error:
        raise PluginError(
            f"{kind}/{name}, a plug-in of {_distribution(points[name])}, fails to import: "
            f"{type(error).__name__}: {error}"
        ) from error
    if _distribution(points[name]) != "nasvid":
        _imported.add(points[name].module)
    return _checked(kind, name, cls)


def files() -> set[str]:
    """Return the files of the loaded plug-ins that do not come with nasvid."""
    own = {source for _, source in _registered.values()}
    return own | {str(getattr(sys.modules.get(module), "__file__", None)) for module in _imported}


def _checked(kind: str, name: str, cls: Any) -> type:
    from nasvid.plugins.config import Config  # here, so that listing does not import pydantic

    options = getattr(cls, "Config", None)
    if not (isinstance(options, type) and issubclass(options, Config)):
        raise PluginError(
            f"{kind}/{name} ({cls!r}) has no Config; derive it from nasvid's base class for its "
            "kind, and its options from nasvid.Config"
        )
    if lacking := sorted(getattr(cls, "__abstractmethods__", ())):
        raise PluginError(f"{kind}/{name} ({cls!r}) lacks {', '.join(lacking)}; write it")
    if "name" in options.model_fields:
        raise PluginError(
            f"{kind}/{name} has an option 'name', which in a recipe names the plug-in; rename "
            "the option"
        )
    return cls


@cache
def _entry_points(kind: str) -> dict[str, EntryPoint]:
    found: dict[str, EntryPoint] = {}
    for point in entry_points(group=f"nasvid.{kind}"):
        known = found.setdefault(point.name, point)
        if known.value != point.value:
            raise PluginError(
                f"{kind}/{point.name} is declared by both {_distribution(known)} and "
                f"{_distribution(point)}; uninstall one"
            )
    return found


def _distribution(point: EntryPoint) -> str:
    return point.dist.name if point.dist is not None else point.value
