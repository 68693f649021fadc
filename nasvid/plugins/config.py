"""The base of every typed setting: recipe sections and the options of each plug-in."""

from __future__ import annotations

from typing import Any, ClassVar, Self

from pydantic import BaseModel, ConfigDict, model_validator

from nasvid import plugins


class Config(BaseModel):
    """Immutable settings; an unknown key is an error, a field's docstring is its documentation."""

    model_config = ConfigDict(
        frozen=True,
        extra="forbid",
        use_attribute_docstrings=True,
        validate_default=True,
        allow_inf_nan=False,
    )


class PluginSection(BaseModel):
    """A recipe's section that names a plug-in and gives its options beside the name."""

    model_config = ConfigDict(frozen=True, extra="allow", use_attribute_docstrings=True)

    kind: ClassVar[str]
    """The kind of plug-in that a subclass names, one of `plugins.KINDS`."""

    name: str
    """The plug-in's name; `nasvid list` shows what there is, `nasvid show NAME` its options."""

    @property
    def cls(self) -> Any:
        """The plug-in's class."""
        return plugins.load(self.kind, self.name)

    @property
    def options(self) -> dict[str, Any]:
        """The keys beside `name`, defaults included."""
        return dict(self.model_extra or {})

    @model_validator(mode="before")
    @classmethod
    def _complete(cls, section: Any) -> Any:
        """Validate the options and write out their defaults: equal sections mean equal plug-ins."""
        if not isinstance(section, dict) or not isinstance(section.get("name"), str):
            return section
        options = {key: value for key, value in section.items() if key != "name"}
        config = plugins.load(cls.kind, section["name"]).Config.model_validate(options)
        return {"name": section["name"], **config.model_dump(mode="json")}

    def with_options(self, **options: Any) -> Self:
        """Return the section with some options replaced."""
        return type(self).model_validate({"name": self.name, **self.options, **options})

    def make(self, *parts: Any) -> Any:
        """Make the plug-in from its validated options and the parts its kind is given."""
        return self.cls(self.cls.Config.model_validate(self.options), *parts)


class SpaceSection(PluginSection):
    """The search space and its options."""

    kind = "spaces"


class SamplerSection(PluginSection):
    """A sampler and its options."""

    kind = "samplers"


class StrategySection(PluginSection):
    """A search strategy and its options."""

    kind = "strategies"


class EvaluatorSection(PluginSection):
    """An evaluator and its options."""

    kind = "evaluators"


class TextSection(PluginSection):
    """A text encoder and its options."""

    kind = "text_encoders"


class EngineSection(PluginSection):
    """What moves the weights, on one process or many, and its options."""

    kind = "engines"
