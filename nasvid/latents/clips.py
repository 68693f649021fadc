"""The clips of a split as the denoiser takes them: pixels, or latents from a VAE or a cache."""

from __future__ import annotations

from collections.abc import Generator, Iterable
from contextlib import closing
from dataclasses import replace
from functools import partial

from nasvid.data.clips import Clips, pixel_clips
from nasvid.data.embeddings import EncodeClips
from nasvid.data.loader import Batch, BatchRequest, Load
from nasvid.data.paths import Split
from nasvid.data.shards import ShardIndex
from nasvid.data.streamed import StreamedShards
from nasvid.latents.cache import LatentCache
from nasvid.latents.loader import load_latents
from nasvid.recipe.sections import Recipe
from nasvid.shapes import Resolution
from nasvid.vae import Vae

PIXELS = 1 << 26
"""Most pixels of clips that are in memory at a time, of one clip at least."""


def at_once(most: int, frames: int, resolution: Resolution) -> int:
    """Return how many decoded clips, `most` at most, may be in memory. frames: `data.frames`."""
    area = resolution.height * resolution.width
    return max(1, min(most, PIXELS // (resolution.frames_or(frames) * area)))


def clips_of(
    recipe: Recipe,
    index: ShardIndex | StreamedShards,
    split: Split,
    vae: Vae | None,
    cache: LatentCache | None,
    text: EncodeClips | None,
) -> Clips:
    """Return the clips of a split as pixels or latents, whichever the recipe denoises.

    vae: None for pixels. cache: of latents; None encodes each batch on the fly. text: gives the
    embeddings of captions; None leaves them out of clips that are not in the cache.
    """
    pixels = pixel_clips(recipe, index, split, text)
    if vae is None:
        return pixels
    if cache is None:
        return Clips(index, partial(_encoded, vae, pixels.load))
    workers = recipe.data.workers if split == "train" else 0
    load = partial(load_latents, cache, split=split, seed=recipe.seed, workers=workers)
    return Clips(index, load)


def _encoded(
    vae: Vae, load: Load, requests: Iterable[BatchRequest]
) -> Generator[Batch, None, None]:
    with closing(load(requests)) as batches:
        for batch in batches:
            yield replace(batch, video=vae.encode(batch.video))
