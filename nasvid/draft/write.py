"""Writes a recipe for a pipeline, and checks it before it is there."""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml
from jinja2 import Environment, PackageLoader, StrictUndefined

from nasvid import plugins
from nasvid.architecture import Architecture
from nasvid.costs import built_on_meta
from nasvid.diffusion.scheduled import predicted_by
from nasvid.diffusion.stock import StockPipeline, Unfit
from nasvid.draft.parts import Parts, Section, find_parts, objective_section
from nasvid.draft.pipeline import Original, open_pipeline
from nasvid.draft.shapes import own_shapes, shape_of, small_shapes
from nasvid.errors import UserError, first_line
from nasvid.host.files import atomic_path
from nasvid.latents.vae import make_vae
from nasvid.preflight import check_named, load_recipe
from nasvid.recipe.sections import VaeSection
from nasvid.space import SearchSpace
from nasvid.text_encoder import TextSection

SCALES = ("gpu", "cpu")
"""The scales of a drafted recipe."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Wanted:
    """What is asked for: `nasvid init GIVEN --keep KEEP --out OUT --plugin FILE…`."""

    given: str
    keep: float
    out: Path
    plugins: Sequence[Path] = ()


def draft(wanted: Wanted) -> str:
    """Write a recipe for a pipeline, replacing the file; return a line that says what it searches.

    Raises:
        UserError: there is no such pipeline, a part of it is missing or damaged, or no plug-in
            takes it. Nothing is written.
    """
    for path in wanted.plugins:
        plugins.load_file(path)
    pipeline = open_pipeline(wanted.given)
    parts = find_parts(pipeline, wanted.keep, [str(path.resolve()) for path in wanted.plugins])
    text = _text(wanted, pipeline, parts, kept := _kept(parts.space))
    with atomic_path(wanted.out, needed=len(text)) as temporary:
        temporary.write_text(text, encoding="utf-8")
        _check(temporary, wanted, is_local=pipeline.hub is None)
    name = parts.sections["space"]["name"]
    said = f"{parts.space.describe()} of {name}, the smallest with {kept:.0%} of its parameters"
    return said + _alone(pipeline, parts)


def _alone(pipeline: Original, parts: Parts) -> str:
    """Return why exports will be denoisers without their pipeline, if that is so."""
    if pipeline.hub is not None:
        return ""
    text = TextSection.model_validate(parts.sections["text"]).make()
    vae = make_vae(VaeSection(path=str(pipeline.folder)))
    model = pipeline.parts[pipeline.denoiser]
    try:
        StockPipeline.of(pipeline.folder, model, text, vae, parts.context_len)
    except Unfit as unfit:
        return f"; subnets will be exported without the rest of the pipeline: {unfit}"
    return ""


def _kept(space: SearchSpace) -> float:
    """Return the parameters of the smallest architecture, as a fraction of the largest's."""
    return _params(space, space.smallest) / _params(space, space.largest)


def _params(space: SearchSpace, arch: Architecture) -> int:
    model = built_on_meta(lambda: space.build(arch))
    return sum(parameter.numel() for parameter in model.parameters())


def _text(wanted: Wanted, pipeline: Original, parts: Parts, kept: float) -> str:
    """Return the recipe with its comments. kept: of the parameters, by the smallest."""
    shapes = {"gpu": own_shapes(pipeline, parts), "cpu": small_shapes(pipeline, parts)}
    objectives = {
        name: objective_section(pipeline, shape_of(each, parts)) for name, each in shapes.items()
    }
    path = pipeline.hub or _relative(wanted.given, wanted.out)
    written = {str(pipeline.folder): path}
    environment = Environment(
        loader=PackageLoader("nasvid.draft", "."),
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    environment.filters["flow"] = lambda value: _flow(_renamed(value, written))
    return environment.get_template("recipe.yaml.j2").render(
        wanted=wanted,
        kept=f"{kept:.0%}",
        pipeline=pipeline,
        parts=parts,
        shapes=shapes,
        objective=objectives["gpu"],
        scheduled=_scheduled(pipeline.scheduler()),
        scheduler=pipeline.scheduler(),
        small_objective=_difference(objectives["cpu"], objectives["gpu"]),
        path=path,
        plugins=[_relative(str(each), wanted.out) for each in wanted.plugins],
        name=_name(wanted.given),
        fps=pipeline.default("frame_rate"),
        guidance=pipeline.default("true_cfg_scale", "guidance_scale") or 1.0,
        vae=_vae(pipeline, parts),
    )


def _scheduled(scheduler: dict[str, Any]) -> str:
    """Return what a scheduler takes a denoiser to predict, and how it shifts, for a comment."""
    shift = next(
        (key for key in ("flow_shift", "shift", "snr_shift_scale") if key in scheduler), None
    )
    if scheduler.get("use_dynamic_shifting"):
        return f"{predicted_by(scheduler)}, with a shift that grows with the size of videos"
    return predicted_by(scheduler) + (f", {shift} {scheduler[shift]:g}" if shift else "")


def _vae(pipeline: Original, parts: Parts) -> Section:
    if pipeline.hub is None:
        return {"path": str(pipeline.folder)}
    to = parts.latents
    factors = {"channels": to.channels, "factor": to.factor, "temporal_factor": to.temporal_factor}
    return {"path": pipeline.hub, "subfolder": "vae", **factors}


def _check(recipe: Path, wanted: Wanted, *, is_local: bool) -> None:
    """Check a drafted recipe at every scale, and the files that it names."""
    try:
        loaded = load_recipe(recipe, scale=SCALES[0])
        if is_local:
            check_named(loaded)
    except UserError as error:
        said = re.sub(rf"{re.escape(str(recipe))}(:\d+)?: ", "", first_line(error))
        raise UserError(f"{wanted.given}: {said}") from error


def _difference(one: Section, other: Section) -> Section:
    return {key: value for key, value in one.items() if other.get(key) != value}


def _relative(path: str, recipe: Path) -> str:
    """Return a path as a recipe names it: relative to its folder, or absolute as given."""
    return path if Path(path).is_absolute() else os.path.relpath(path, recipe.parent)


def _name(given: str) -> str:
    """Return a run's name made of a pipeline's."""
    name = re.sub(r"[^a-z0-9._-]+", "-", Path(given).resolve().name.lower())
    return name.strip("-._") or "compressed"


def _renamed(value: Any, names: dict[str, str]) -> Any:
    if isinstance(value, dict):
        return {key: _renamed(each, names) for key, each in value.items()}
    return names.get(value, value) if isinstance(value, str) else value


def _flow(value: Any) -> str:
    """Return a value as YAML on one line."""
    text = yaml.safe_dump(value, default_flow_style=True, sort_keys=False, width=10**6)
    return text.removesuffix("...\n").strip()
