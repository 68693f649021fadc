"""A section of a recipe that names a plug-in."""

from __future__ import annotations

import inspect
from typing import Any, ClassVar, Self

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    SerializeAsAny,
    ValidationInfo,
    model_serializer,
    model_validator,
)

from nasvid.plugins.config import Config
from nasvid.plugins.registry import PluginError, load


class PluginSection(BaseModel):
    """A section of a recipe that names a plug-in and holds its options."""

    model_config = ConfigDict(frozen=True, use_attribute_docstrings=True)

    kind: ClassVar[str]
    """The kind of plug-in that the section names, one of `KINDS`."""

    name: str
    """The plug-in's name; `nasvid list` shows all, `nasvid show NAME` one with its options."""
    config: SerializeAsAny[Config] = Field(default_factory=Config)
    """Its validated config; in a recipe the options are written next to the name."""

    @property
    def cls(self) -> Any:
        """The plug-in's class."""
        return load(self.kind, self.name)

    @property
    def options(self) -> dict[str, Any]:
        """The options as plain values, defaults included."""
        return self.config.model_dump(mode="json")

    @model_validator(mode="before")
    @classmethod
    def _typed(cls, section: Any, info: ValidationInfo) -> Any:
        """Validate the options against the config of the named plug-in."""
        if not isinstance(section, dict) or not isinstance(section.get("name"), str):
            return section
        given = {key: value for key, value in section.items() if key != "name"}
        if isinstance(given.get("config"), Config):
            return section
        config = load(cls.kind, section["name"]).Config
        return {
            "name": section["name"],
            "config": config.model_validate(given, context=info.context),
        }

    @model_serializer
    def _flat(self) -> dict[str, Any]:
        return {"name": self.name, **self.options}

    def with_options(self, **options: Any) -> Self:
        """Return the section with some options replaced."""
        return type(self).model_validate({"name": self.name, **self.options, **options})

    def make(self, *parts: Any) -> Any:
        """Create the plug-in from its config and the parts that its kind receives."""
        cls = self.cls
        try:
            inspect.signature(cls).bind(self.config, *parts)
        except TypeError as error:
            raise PluginError(
                f"{self.kind}/{self.name} is not made as plug-ins of its kind are ({error}); "
                "derive it from the base class of its kind, and let __init__ take what that takes"
            ) from error
        return cls(self.config, *parts)
