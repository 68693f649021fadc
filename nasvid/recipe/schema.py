"""The recipe's schema for readers: every setting, its type, bounds, default and meaning."""

from __future__ import annotations

import inspect
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import Any, get_args, get_origin

from pydantic import BaseModel
from pydantic_core import to_jsonable_python

from nasvid import plugins
from nasvid.plugins.section import PluginSection
from nasvid.recipe.sections import Recipe

Key = str | int


@dataclass(frozen=True, slots=True)
class Setting:
    """One key of a section."""

    name: str
    type: str
    """In words, with bounds: `number > 0`."""
    default: Any
    """The default as JSON; None also when there is none."""
    required: bool
    description: str

    def to_json(self) -> dict[str, Any]:
        """Return plain values."""
        return asdict(self)


def settings(model: type[BaseModel]) -> list[Setting]:
    """Return the keys of a section or of a plug-in's config, in the order of declaration."""
    schema = model.model_json_schema()
    return [
        Setting(
            name=name,
            type=_type_text(schema["properties"][name]),
            default=None if field.is_required() else _default(field),
            required=field.is_required(),
            description=" ".join((field.description or _section_text(field.annotation)).split()),
        )
        for name, field in model.model_fields.items()
    ]


def summary(model: type) -> str:
    """Return the first line of a class's docstring."""
    return (inspect.getdoc(model) or "").partition("\n")[0]


def sections() -> Iterator[tuple[str, type[BaseModel]]]:
    """Yield the recipe's sections, by dotted name, the recipe itself under ''."""
    pending: list[tuple[str, type[BaseModel]]] = [("", Recipe)]
    for prefix, model in pending:
        yield prefix, model
        for name, field in model.model_fields.items():
            inner = _model_in(field.annotation)
            if inner is not None and not issubclass(inner, PluginSection):
                mapping = get_origin(field.annotation) is dict
                path = f"{prefix}.{name}" if prefix else name
                pending.append((f"{path}.<{name[:-1]}>" if mapping else path, inner))


def model_at(path: Sequence[Key], recipe: Any) -> type[BaseModel] | None:
    """Return the pydantic model of a recipe's section at a path, or None.

    recipe: the plain values, which name the plug-ins along the path.
    """
    annotation: Any = Recipe
    for key in path:
        annotation = _below(annotation, key)
        recipe = _get(recipe, key)
        annotation = _options_of(annotation, recipe) or annotation
    return _model_in(annotation)


def _options_of(annotation: Any, section: Any) -> type[BaseModel] | None:
    """Return the config's class of the plug-in that a section names, if it names one."""
    model = _model_in(annotation)
    name = _get(section, "name")
    if model is None or not issubclass(model, PluginSection) or not isinstance(name, str):
        return None
    try:
        return plugins.load(model.kind, name).Config
    except plugins.PluginError:
        return None


def _below(annotation: Any, key: Key) -> Any:
    """Return the annotation of the value under `key` in a value of this annotation, or None."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        field = annotation.model_fields.get(str(key))
        return field.annotation if field is not None else None
    if get_origin(annotation) is dict:
        return get_args(annotation)[1]
    if get_origin(annotation) in (list, tuple):
        return get_args(annotation)[0]
    inner = (_below(part, key) for part in get_args(annotation))
    return next((found for found in inner if found is not None), None)


def _model_in(annotation: Any) -> type[BaseModel] | None:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return annotation
    inner = (_model_in(part) for part in get_args(annotation))
    return next((found for found in inner if found is not None), None)


def _get(value: Any, key: Key) -> Any:
    if isinstance(value, dict):
        return value.get(key)
    if isinstance(value, list) and isinstance(key, int) and key < len(value):
        return value[key]
    return None


def _section_text(annotation: Any) -> str:
    section = _model_in(annotation)
    return summary(section) if section is not None else ""


def _default(field: Any) -> Any:
    return to_jsonable_python(field.get_default(call_default_factory=True))


def _type_text(schema: dict[str, Any]) -> str:
    """Describe the type of one property of a JSON schema in words."""
    if "anyOf" in schema:
        return " or ".join(_type_text(option) for option in schema["anyOf"])
    if "enum" in schema or "const" in schema:
        options = schema.get("enum", [schema.get("const")])
        return " or ".join(f"`{option}`" for option in options)
    if "$ref" in schema:
        names_plugin = {section.__name__ for section in PluginSection.__subclasses__()}
        return "plug-in" if schema["$ref"].rpartition("/")[2] in names_plugin else "section"
    if "prefixItems" in schema:
        return f"[{', '.join(_type_text(item) for item in schema['prefixItems'])}]"
    if schema.get("type") == "array":
        return f"list of {_type_text(schema['items'])}"
    if schema.get("type") == "object":
        values = schema.get("additionalProperties")
        return f"mapping to {_type_text(values)}" if isinstance(values, dict) else "mapping"
    words = {"integer": "whole number", "string": "text", "boolean": "true or false"}
    kind = str(schema.get("type", "anything"))
    name = words.get(kind, kind)
    return " ".join([name, ", ".join(_bounds(schema))]).strip()


def _bounds(schema: dict[str, Any]) -> Iterator[str]:
    signs = {"minimum": ">=", "exclusiveMinimum": ">", "maximum": "<=", "exclusiveMaximum": "<"}
    for key, sign in signs.items():
        if key in schema:
            yield f"{sign} {schema[key]:.15g}"
    if "multipleOf" in schema:
        yield f"a multiple of {schema['multipleOf']:g}"
