"""What the conformance suites have in common."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar, TypeVar

from nasvid.plugins.config import Config
from nasvid.plugins.plugin import Plugin

P = TypeVar("P", bound=Plugin)


class Conformance:
    """The base of every suite whose plug-in is made from its options."""

    options: ClassVar[Mapping[str, Any]] = {}
    """The options of the plug-in under test, as in a recipe."""

    def configured(self, plugin: type[Plugin]) -> Config:
        """Return the options, validated as those of the plug-in."""
        return plugin.Config.model_validate(dict(self.options))

    def made(self, plugin: type[P], *parts: Any) -> P:
        """Return a new plug-in made from `options` and the parts that its kind receives."""
        make: Any = plugin
        return make(self.configured(plugin), *parts)
