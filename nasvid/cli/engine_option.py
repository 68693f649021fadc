"""The option `--engine` of the commands that plan and measure."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from nasvid.errors import UserError, nearest
from nasvid.host.words import after_colon

if TYPE_CHECKING:
    from nasvid.recipe.sections import EngineSection, Recipe

ENGINE_HELP = (
    "An engine, with its options after a colon: NAME:KEY=VALUE,KEY=VALUE [default: the recipe's]."
)


def engine_option(*, repeatable: bool) -> Any:
    """Return `--engine`; `read_engine` reads what it receives."""
    return click.option(
        "--engine",
        "engines" if repeatable else "engine",
        multiple=repeatable,
        metavar="NAME",
        help="Repeatable. " + ENGINE_HELP if repeatable else ENGINE_HELP,
    )


def read_engine(text: str, recipe: Recipe) -> EngineSection:
    """Return the engine of `name`, or of `name:key=value,key=value`.

    The recipe's own engine keeps the options that are not given; those of another have their
    defaults. Values are YAML; files are relative to the current folder.

    Raises:
        UserError: there is no such engine, or it has no such option or value.
    """
    from pydantic import ValidationError

    from nasvid.plugins import available
    from nasvid.recipe.nodes import parse_value
    from nasvid.recipe.sections import EngineSection

    name, _, given = text.partition(":")
    if not name:
        raise UserError(f"--engine '{text}' names no engine{nearest('', available('engines'))}")
    own = recipe.training.engine
    options: dict[str, Any] = dict(own.options) if name == own.name else {}
    for pair in filter(None, given.split(",")):
        key, equals, value = pair.partition("=")
        if not equals:
            raise UserError(f"--engine {text}: '{pair}' has no value; write {name}:{key}=VALUE")
        if key == "name":
            raise UserError(f"--engine {text}: the engine's name comes first; remove name={value}")
        options[key] = parse_value(value, f"--engine {text}: {key}").plain()
    section = {"name": name, **options}
    try:
        return EngineSection.model_validate(section, context={"folder": Path.cwd()})
    except ValidationError as error:
        raise UserError(f"--engine {text}: {after_colon(_first(error, name))}") from None


def _first(error: Any, name: str) -> str:
    """Return the first problem of an engine's options."""
    from nasvid.plugins import load
    from nasvid.recipe.problems import wrong_value

    problem = error.errors()[0]
    key = ".".join(map(str, problem["loc"]))
    if problem["type"] == "extra_forbidden":
        known = list(load("engines", name).Config.model_fields)
        hint = nearest(key, known) if known else "; it has no options"
        return f"engine {name} has no option '{key}'{hint}"
    own_words = problem["type"] == "value_error"
    message = str(problem["ctx"]["error"]) if own_words else wrong_value([problem])
    return f"{key}: {message}" if key else message
