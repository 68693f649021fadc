"""What a run takes of a disk besides its checkpoints: shards, encoded clips and captions."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from math import prod
from typing import Any

from nasvid.errors import UserError
from nasvid.planning.encoders import Encoders
from nasvid.recipe.sections import Recipe
from nasvid.recipe.size import bytes_in

HALF = 2
"""Bytes of a number of latents and of embeddings."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Disk:
    """The most bytes of each kind; 0 where a run has none.

    shards: of streamed shards that are fetched, on each machine; None for no limit. clip: of an
    encoded training clip, with all its cuts, at all resolutions that it is encoded at, and their
    embeddings. caption: of the embedding of a caption, if it is not kept with encoded clips.
    """

    shards: int | None
    clip: int
    caption: int

    def to_json(self) -> dict[str, Any]:
        """Return plain values."""
        return asdict(self)


def disk(recipe: Recipe, encoders: Encoders) -> Disk:
    """Return what a recipe's clips and captions take."""
    data, limit = recipe.data, recipe.data.cache_limit
    caption = data.context_len * _text_dim(recipe) * HALF
    is_fetched = recipe.streams and data.is_remote
    return Disk(
        shards=0 if not is_fetched else None if limit is None else bytes_in(limit),
        clip=_clip(recipe, caption) if encoders.vae_ahead else 0,
        caption=caption if encoders.text_ahead and not encoders.vae_ahead else 0,
    )


def _clip(recipe: Recipe, caption: int) -> int:
    assert recipe.vae is not None
    channels = recipe.vae.compression.channels
    sizes = [
        prod((channels, shape.frames, shape.height, shape.width)) * HALF + caption
        for shape in recipe.shapes().values()
    ]
    return recipe.vae.cuts * (max(sizes) if recipe.data.buckets else sum(sizes))


def _text_dim(recipe: Recipe) -> int:
    try:
        return recipe.text.make().dim
    except UserError:  # what it depends on is not there, as `nasvid run` would say
        return 0
