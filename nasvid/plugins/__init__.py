"""Plug-ins: the registry that finds them, and the typed options that each one has."""

from nasvid.plugins.config import Config, ModelPath, RecipePath
from nasvid.plugins.plugin import Plugin
from nasvid.plugins.registry import (
    KINDS,
    Origin,
    PluginError,
    available,
    load,
    load_file,
    register,
)
from nasvid.plugins.section import PluginSection

__all__ = [
    "KINDS",
    "Config",
    "ModelPath",
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
