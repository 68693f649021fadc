"""Plug-ins: the registry that finds them, and their typed configs.

The types are imported on first use, so that code that only reads the registry, such as
`nasvid list`, does not wait for pydantic.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from nasvid.plugins.needs import Need
from nasvid.plugins.registry import (
    KINDS,
    Origin,
    PluginError,
    available,
    load,
    load_file,
    register,
)

if TYPE_CHECKING:
    from nasvid.plugins.config import Config, ModelPath, RecipePath
    from nasvid.plugins.plugin import Plugin
    from nasvid.plugins.section import PluginSection

_TYPES = {
    "Config": "config",
    "ModelPath": "config",
    "RecipePath": "config",
    "Plugin": "plugin",
    "PluginSection": "section",
}

__all__ = [
    "KINDS",
    "Config",
    "ModelPath",
    "Need",
    "Origin",
    "Plugin",
    "PluginError",
    "PluginSection",
    "RecipePath",
    "available",
    "load",
    "load_file",
    "register",
]


def __getattr__(name: str) -> Any:
    if name not in _TYPES:
        raise AttributeError(f"module '{__name__}' has no attribute '{name}'")
    return getattr(import_module(f"{__name__}.{_TYPES[name]}"), name)
