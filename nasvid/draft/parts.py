"""Which plug-ins take the parts of a pipeline: each says so itself."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from typing import Any, NoReturn

from nasvid import plugins
from nasvid.draft.pipeline import Original
from nasvid.errors import UserError
from nasvid.host.weights import read_config
from nasvid.latents.vae import make_vae
from nasvid.plugins.config import Config
from nasvid.recipe.sections import VaeSection
from nasvid.shapes import Domain, VideoShape
from nasvid.space import SearchSpace
from nasvid.text_encoder import TextEncoder
from nasvid.vae import Compression

Section = dict[str, Any]
"""A section of a recipe, as plain values."""
Ask = Callable[[Any], Config | None]
"""Returns what a plug-in's class proposes; None if it does not take the part."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Parts:
    """The plug-ins that take a pipeline's parts.

    latents: how they relate to pixels. context_len: text tokens of the pipeline. text, spaces: the
    recipe's sections; `space` is made of the latter.
    """

    latents: Compression
    context_len: int
    space: SearchSpace
    sections: Mapping[str, Section]


def find_parts(pipeline: Original, keep: float, own: Collection[str]) -> Parts:
    """Return the plug-ins for a pipeline's VAE, text encoder and denoiser.

    keep: as `SearchSpace.propose` takes it. own: files of plug-ins, which are asked first.

    Raises:
        UserError: no plug-in takes one of them, or the denoiser cannot be made smaller.
    """
    folder = str(pipeline.folder)
    latents = make_vae(VaeSection(path=folder)).compression
    text, encoder = _asked(
        "text_encoders", lambda cls: cls.propose(pipeline.folder, pipeline.hub), own
    ) or _none_takes(pipeline, "text_encoder", "text encoder", "model_type")
    made: TextEncoder = plugins.load("text_encoders", text)(encoder)  # pyright: ignore
    domain = Domain(channels=latents.channels, context_dim=made.dim, pooled_dim=made.pooled_dim)
    part = pipeline.denoiser
    model = pipeline.config(part)
    try:
        name, options = _asked(
            "spaces", lambda cls: cls.propose(model, domain, keep), own
        ) or _none_takes(pipeline, part, "space", "_class_name")
        cls: Any = plugins.load("spaces", name)
        whole = cls.inherit(options, model)
        space = cls(whole, domain)
    except UserError:
        raise
    except ValueError as error:
        raise UserError(f"{pipeline.folder / part}: {error}") from error
    return Parts(
        latents=latents,
        context_len=pipeline.context_len + (made.pooled_dim > 0),
        space=space,
        sections={
            "text": _section(text, encoder),
            "space": _section(name, options if pipeline.hub is None else whole),
        },
    )


def objective_section(pipeline: Original, shape: VideoShape) -> Section:
    """Return the recipe's section of the objective that trains what the pipeline samples.

    shape: of the videos, as the denoiser sees them.

    Raises:
        UserError: no plug-in does.
    """
    scheduler, folder = pipeline.scheduler(), pipeline.folder if pipeline.hub is None else None
    found = _asked("objectives", lambda cls: cls.propose(scheduler, shape, folder), ())
    if found is None:
        raise UserError(
            f"No objective trains what {scheduler['_class_name']} samples with prediction_type "
            f"{scheduler.get('prediction_type')}; docs/objectives.md says how to write one"
        )
    return _section(*found)


def _asked(kind: str, ask: Ask, own: Collection[str]) -> tuple[str, Config] | None:
    """Return the name and the proposal of the first plug-in that takes a part; own ones first."""
    known = plugins.available(kind)
    for name in sorted(known, key=lambda name: known[name].source not in own):
        proposed = ask(plugins.load(kind, name))
        if proposed is not None:
            return name, proposed
    return None


def _none_takes(pipeline: Original, part: str, kind: str, key: str) -> NoReturn:
    known = read_config(pipeline.folder / part).get(key)
    raise UserError(
        f"No {kind} takes {pipeline.folder / part}, a model of the type {known}; `nasvid list` "
        "shows those that are installed, and --plugin adds one of your own"
    )


def _section(name: str, options: Config) -> Section:
    return {"name": name, **options.model_dump(mode="json", exclude_unset=True)}
