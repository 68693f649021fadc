"""Checks everything that a recipe names before any work: shards, autoencoder, models."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from nasvid.costs import built_on_meta
from nasvid.data.errors import DataError
from nasvid.data.paths import Split, shard_names
from nasvid.errors import UserError
from nasvid.host.hub import could_be_a_model, why_no_model
from nasvid.plugins.needs import missing
from nasvid.preflight.checks import needs_of
from nasvid.recipe.problems import Problem
from nasvid.recipe.sections import Recipe, SupernetSection
from nasvid.space import SearchSpace
from nasvid.supernet import check_ends
from nasvid.text_encoder import TextEncoder

if TYPE_CHECKING:
    from torch import nn


def check_named(recipe: Recipe, text: TextEncoder, space: SearchSpace) -> Iterator[Problem]:
    """Yield what is missing, damaged or does not match the recipe; loads and fetches nothing."""
    splits: dict[Split, str | list[str]] = {"train": recipe.data.train, "val": recipe.data.val}
    for split, spec in splits.items():
        try:
            shard_names(spec, Path(), split, allow_pipes=recipe.data.allow_pipes)
        except DataError as error:
            yield Problem(("data", split), str(error))
    if not missing(recipe.text.cls.needs):
        yield from _told(("text",), text.check_ready)
    yield from _vae(recipe)
    yield from _evaluators(recipe, space)
    if unfit := [*_space(recipe, space)]:
        yield from unfit
        return
    yield from _told(("sampler",), lambda: recipe.sampler.make().check_space(space))
    yield from _start(recipe, space)


def check_hub(recipe: Recipe, text: TextEncoder, space: SearchSpace) -> Iterator[Problem]:
    """Yield which models on a hub cannot be had or do not match the recipe; fetches configs."""
    from nasvid.export.pretrained import check_start
    from nasvid.latents.vae import make_vae

    vae = recipe.vae
    if not missing(recipe.text.cls.needs):
        yield from _told(("text",), text.check_hub)
    if vae and not vae.train and vae.path != "embedded" and not Path(vae.path).is_dir():
        yield from _told(("vae",), lambda: make_vae(vae))
    for path, section in _starts(recipe).items():
        if not Path(section.init_from).is_dir():
            yield from _told(path, partial(check_start, section, _largest(space)))


def _space(recipe: Recipe, space: SearchSpace) -> Iterator[Problem]:
    """Check that the space's models share weights, and that their costs can be counted."""
    try:
        space.layout().check(space.choices)
        check_ends(space)
        space.cost(space.smallest, "params", next(iter(recipe.shapes().values())))
    except ValueError as error:
        yield Problem(("space",), str(error))


def _vae(recipe: Recipe) -> Iterator[Problem]:
    from nasvid.latents.vae import check_vae

    section = recipe.vae
    if section is None or section.train is not None:
        return
    if section.path != "embedded" and not could_be_a_model(section.path):
        yield Problem(("vae", "path"), why_no_model(section.path))
        return
    yield from _told(("vae",), lambda: check_vae(section))


def _evaluators(recipe: Recipe, space: SearchSpace) -> Iterator[Problem]:
    """Check what evaluators need, so that none fails after the training."""
    for stage, sections in (
        ("search", recipe.search.evaluators),
        ("front", recipe.front.evaluators),
    ):
        for number, section in enumerate(sections):
            check = partial(
                section.cls.check,
                section.config,
                frames=_shortest(recipe),
                clips=recipe.search.clips,
            )
            if not [*needs_of(section)]:
                yield from _told((stage, "evaluators", number), check)
                known = partial(section.known, space, recipe.shapes())
                yield from _told((stage, "evaluators", number), known)


def _shortest(recipe: Recipe) -> int:
    """Return the frames of the shortest clips, images aside."""
    lengths = {each.frames_or(recipe.data.frames) for each in recipe.resolutions}
    return min(lengths - {1}, default=1)


def _start(recipe: Recipe, space: SearchSpace) -> Iterator[Problem]:
    """Check the existing models that the supernet starts from and learns from."""
    from nasvid.export.pretrained import check_start

    largest: nn.Module | None = None
    for path, section in _starts(recipe).items():
        if not could_be_a_model(section.init_from):
            yield Problem(path, why_no_model(section.init_from))
        elif Path(section.init_from).is_dir():
            largest = largest or _largest(space)
            found = [*_told(path, partial(check_start, section, largest))]
            yield from found
            if found and path[0] == "supernet":
                return  # the space has its settings from this model


def _starts(recipe: Recipe) -> dict[tuple[str, ...], SupernetSection]:
    """Return the existing models that a recipe names, by the key that names them."""
    named: dict[tuple[str, ...], SupernetSection | None]
    named = {("supernet", "init_from"): recipe.supernet}
    for path, teacher in recipe.teachers():
        if teacher.model is not None:
            named[*path, "model"] = teacher.pretrained(recipe.supernet)
    return {path: section for path, section in named.items() if section is not None}


def _largest(space: SearchSpace) -> nn.Module:
    return built_on_meta(lambda: space.build(space.largest))


def _told(path: tuple[str | int, ...], check: Callable[[], object]) -> Iterator[Problem]:
    try:
        check()
    except UserError as error:
        yield Problem(path, str(error))
