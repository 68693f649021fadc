"""The engine of a plan, and the engines that it is compared with."""

from __future__ import annotations

from collections.abc import Iterator

from pydantic import ValidationError

from nasvid import plugins
from nasvid.recipe.sections import EngineSection
from nasvid.training.engine import engine_of


def to_compare(chosen: EngineSection, devices: int) -> Iterator[EngineSection]:
    """Yield the chosen engine, then its variants and those of the other installed engines.

    A single device has nothing to partition, so an engine without variants is then shown alone.
    """
    yield chosen
    if devices == 1 and len(engine_of(chosen).variants()) < 2:
        return
    names = plugins.available("engines")
    for section in (other for name in names for other in _variants(name, chosen)):
        if section != chosen:
            yield section


def _variants(name: str, chosen: EngineSection) -> Iterator[EngineSection]:
    """Yield an engine's variants; `nasvid doctor` reports why one that cannot load is missing."""
    try:
        section = chosen if name == chosen.name else EngineSection(name=name)
    except (plugins.PluginError, ValidationError):
        return
    for config in engine_of(section).variants():
        yield EngineSection(name=name, config=config)
