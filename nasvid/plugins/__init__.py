"""Plug-ins: the registry that finds them, and the typed options that each one has."""

from nasvid.plugins.registry import (
    KINDS,
    Plugin,
    PluginError,
    available,
    load,
    load_file,
    register,
)

__all__ = ["KINDS", "Plugin", "PluginError", "available", "load", "load_file", "register"]
