"""The clips of a split, and the index that lists them."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from contextlib import nullcontext
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

from nasvid.data.cache import ShardCache
from nasvid.data.embeddings import EncodeClips
from nasvid.data.errors import DataError
from nasvid.data.loader import Cutting, Load, load_batches
from nasvid.data.paths import Split, shard_names
from nasvid.data.pools import pool
from nasvid.data.shards import ShardIndex
from nasvid.data.stored import stored_index
from nasvid.data.stored_counts import stored_counts
from nasvid.data.streamed import StreamedShards
from nasvid.host.display import Display
from nasvid.host.words import after_colon, counted
from nasvid.recipe.paths import is_url
from nasvid.recipe.sections import Recipe
from nasvid.recipe.size import bytes_in


@dataclass(frozen=True, slots=True)
class Clips:
    """The clips of a split.

    index: the content of its shards, as far as it is known. load: yields the batch of each request,
    in order; its `video` is in the space that is denoised.
    """

    index: ShardIndex | StreamedShards
    load: Load


def shard_cache(recipe: Recipe, folder: Path) -> ShardCache:
    """Return the cache of remote shards.

    folder: the run's, or that of whatever else is made from them; used unless the recipe names
    another.
    """
    section = recipe.data
    place = folder / "shards" if section.cache == "run" else Path(section.cache)
    limited = section.cache_limit if streams(recipe, folder) else None
    limit = bytes_in(limited) if limited is not None else None
    return ShardCache(place, section.retries, section.allow_pipes, limit)


def streams(recipe: Recipe, folder: Path) -> bool:
    """Return whether the training clips of a run are streamed, as when it began.

    folder: the run's; its shards may be at another place now, local instead of remote.
    """
    if recipe.data.mode is None:
        if streamed_path(folder).exists():
            return True
        if index_path(folder, "train").exists():
            return False
    return recipe.streams


def streamed_path(folder: Path) -> Path:
    """Return the path of what is known of streamed training shards in a run's folder."""
    return folder / "data" / "streamed" / "train.json"


def index_path(folder: Path, split: Split) -> Path:
    """Return the path of a split's index in the folder of what is made from it."""
    return folder / "data" / f"{split}.index.jsonl"


def _data_key(names: Iterable[str], shapes: bool) -> str:
    """Return a short hash of shards: their names, and local ones' sizes and times.

    shapes: whether those of the clips are found too.
    """
    digest = hashlib.sha256(b"shapes" if shapes else b"")
    for name in names:
        stat = None if is_url(name) else Path(name).stat()
        digest.update(f"{name}\0{stat and (stat.st_size, stat.st_mtime_ns)}\0".encode())
    return digest.hexdigest()[:12]


def clip_index(
    recipe: Recipe, split: Split, folder: Path, display: Display, *, shared: bool = False
) -> ShardIndex:
    """Return the index of a split's shards, creating it if `folder` has none yet.

    folder: the run's, or that of whatever else is made from them. shared: whether it is for several
    data sets, each of which then has an index of its own.

    Raises:
        DataError: shards are missing or have changed, too many cannot be fetched, too many
            samples are unusable, or a resolution has no clips.
    """
    section = recipe.data
    spec = section.train if split == "train" else section.val
    try:
        names = shard_names(spec, folder, split, allow_pipes=section.allow_pipes)
        path = index_path(folder, split)
        path = path.parent / _data_key(names, section.buckets) / path.name if shared else path
        total = 0 if path.exists() else len(names)
        with display.track(f"{split} data", total, "shards") if total else nullcontext() as tracker:
            index = stored_index(
                path,
                names,
                shard_cache(recipe, folder),
                shapes=section.buckets,
                max_skipped=section.max_skipped,
                progress=tracker.advance if tracker else lambda: None,
            )
        return _checked(recipe, in_buckets(recipe, index))
    except DataError as error:
        raise DataError(f"data.{split}: {after_colon(str(error))}") from error


def streamed_shards(
    recipe: Recipe, folder: Path, display: Display, *, shared: bool = False
) -> StreamedShards:
    """Return the training shards of a run that streams them, after counting their samples once.

    folder, shared: as in `clip_index`.

    Raises:
        DataError: shards are missing or have changed, or too many cannot be reached.
    """
    section = recipe.data
    cache = shard_cache(recipe, folder)
    try:
        names = shard_names(section.train, folder, "train", allow_pipes=section.allow_pipes)
        path = streamed_path(folder)
        path = path.parent / _data_key(names, shapes=False) / path.name if shared else path
        total = 0 if path.exists() else len(names)
        with display.track("train data", total, "shards") if total else nullcontext() as tracker:
            counts = stored_counts(
                path,
                names,
                cache,
                max_skipped=section.max_skipped,
                progress=tracker.advance if tracker else lambda: None,
            )
    except DataError as error:
        raise DataError(f"data.train: {after_colon(str(error))}") from error
    return StreamedShards.of(counts, section.window, cache)


def in_buckets(recipe: Recipe, index: ShardIndex) -> ShardIndex:
    """Return an index whose clips are shared among a recipe's resolutions, if it asks for that."""
    buckets = tuple(sorted(recipe.resolutions)) if recipe.data.buckets else ()
    return replace(index, buckets=buckets)


def _checked(recipe: Recipe, index: ShardIndex) -> ShardIndex:
    """Check that each of a recipe's resolutions has clips.

    Raises:
        DataError: one of them has none.
    """
    for resolution in recipe.resolutions if index.clips else ():
        if not pool(index, resolution, recipe.data.frames):
            frames = resolution.frames_or(recipe.data.frames)
            why = "all are images"
            if recipe.data.buckets:
                why = f"none of {frames} frames or more has a shape that it fits best"
            raise DataError(
                f"none of its {counted(len(index.clips), 'clip')} is for the resolution "
                f"{resolution}: {why}; remove it, or add clips for it"
            )
    return index


def pixel_clips(
    recipe: Recipe,
    index: ShardIndex | StreamedShards,
    split: Split,
    text: EncodeClips | None = None,
) -> Clips:
    """Return clips as pixels in [-1, 1]; training clips are cut at random, by worker processes.

    text: gives the embeddings of their captions; None for clips without.
    """
    train = split == "train"
    load = partial(
        load_batches,
        index,
        seed=recipe.seed,
        workers=recipe.data.workers if train else 0,
        text=text,
        cutting=Cutting(
            frames=recipe.data.frames,
            fps=recipe.data.fps,
            flip=recipe.data.flip and train,
            train=train,
        ),
    )
    return Clips(index, load)
