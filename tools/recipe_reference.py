"""Writes docs/recipes.md from the schema: `python -m tools.recipe_reference`."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

from pydantic import BaseModel

from nasvid import plugins
from nasvid.host.files import atomic_path
from nasvid.recipe.catalog import summary
from nasvid.recipe.schema import Setting, sections, settings

PAGE = Path(__file__).parents[1] / "docs" / "recipes.md"

INTRODUCTION = """\
# Recipes

*Written by `make docs` from the docstrings of the schema and of the plug-ins: change those.*

A recipe is a YAML file that says everything about a run. `nasvid run RECIPE --dry-run` prints it
with every default filled in, and a run's folder keeps that as `recipe.yaml`.

- An unknown key, a wrong type, or parts that do not fit together are errors that name the file,
  the line and the nearest right name, before anything is computed.
- Paths in a recipe are relative to its folder; those given with `--set`, to the current folder.
- A section with a `name` names a plug-in; the other keys in it are that plug-in's options.
  `nasvid list` shows the plug-ins, `nasvid show NAME` the options of one.
- `plugins:` names Python files that register more. They run as your own code does: read those of
  a stranger's recipe first.

## Scales

`scales:` holds variants of the recipe by name, from the smallest to the largest. Each says only
what differs. Sections merge key by key; a list, `resolutions`, and the section of a plug-in whose
`name` differs replace what was there. All scales are validated, whichever is used.

`--scale NAME` picks one. Without it, nasvid takes the last whose `training.device` this machine
has and whose predicted training memory (`nasvid plan`) fits, and says so in a line.

## `--set`

`--set training.steps=500` changes one value after the scale was applied; it may be given several
times, and goes in order. The value is YAML: `--set search.objectives='[loss, params]'`. It replaces
what was there as a whole; another `name` for a plug-in drops the options of the one before. It may
give a key that the file lacks, or correct a value that is wrong in it: what is validated is the
result. `--set 'search.evaluators[1].repeats=5'` changes an entry of a list (the first is 0), and a
key with a dot in it is quoted: `--set 'space.options."a.b"=1'`.
"""

KIND_TITLES = {
    "spaces": "Search spaces",
    "objectives": "Objectives",
    "samplers": "Samplers",
    "strategies": "Strategies",
    "evaluators": "Evaluators",
    "text_encoders": "Text encoders",
    "engines": "Engines",
}


def render() -> str:
    """Return the page: the schema's sections, then the options of every plug-in of nasvid's own."""
    return "\n".join([INTRODUCTION, *_sections(), *_plugins()])


def write() -> None:
    """Write the page."""
    with atomic_path(PAGE) as temporary:
        temporary.write_text(render(), encoding="utf-8")


def _sections() -> Iterator[str]:
    for path, model in sections():
        title = f"`{path}`" if path else "The recipe"
        yield f"## {title}\n\n{_first_paragraph(model)}\n"
        yield from _table(model)


def _plugins() -> Iterator[str]:
    for kind in plugins.KINDS:
        yield f"## {KIND_TITLES[kind]}\n"
        for name, plugin in plugins.available(kind).items():
            if plugin.source != "nasvid":
                continue
            yield f"### `{name}`\n\n{summary(plugin)}\n"
            config = plugins.load(kind, name).Config
            yield from _table(config) if config.model_fields else ["It has no options.\n"]


def _table(model: type[BaseModel]) -> Iterator[str]:
    yield "| key | type | default | meaning |\n|---|---|---|---|"
    for setting in settings(model):
        cells = (f"`{setting.name}`", setting.type, _default(setting), setting.description)
        yield "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |"
    yield ""


def _default(setting: Setting) -> str:
    """Return a default as a cell; a plug-in's or section's own defaults have their own table."""
    if setting.required:
        return "required"
    value = setting.default
    if isinstance(value, dict):
        return f"`{value['name']}`" if "name" in value else ""
    return f"`{json.dumps(value)}`"


def _first_paragraph(model: type) -> str:
    return " ".join((model.__doc__ or "").partition("\n\n")[0].split())


if __name__ == "__main__":
    write()
