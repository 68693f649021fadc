"""Checks that a run's validation clips are held out."""

from __future__ import annotations

from nasvid.data.overlap import also_in_training
from nasvid.data.pools import pool
from nasvid.data.shards import ShardIndex
from nasvid.data.streamed import StreamedShards
from nasvid.errors import UserError
from nasvid.run.session import Session
from nasvid.shapes import Resolution

NAMED = 3
"""Number of clips that a warning names."""
REPEATED, AT_LEAST = 8, 64
"""How often a validation clip may come again, with other noise; for few clips, 64 in all."""


def check_splits(session: Session) -> None:
    """Warn if source videos of the validation clips are in the training data as well.

    Raises:
        UserError: `search.clips` is many times the number of validation clips, or an evaluator
            does not take their captions.
    """
    train, val = session.data("train"), session.index("val")
    for resolution in session.recipe.resolutions:
        there = len(pool(val, resolution, session.recipe.data.frames))
        _check_number(session.recipe.search.clips, there, resolution)
    check_captions(session)
    if isinstance(train, StreamedShards):
        _check_shards(session, train, val)
        return
    shared = also_in_training(train, val)
    if not shared:
        return
    *most, last = [f"'{clip.key}'" for clip in shared[:NAMED]]
    names = f"{', '.join(most)} and {last}" if most else last
    session.folder.log({"event": "overlap", "clips": len(shared), "of": len(val.clips)})
    session.display.say(
        f"Warning: {len(shared)} of {len(val.clips)} validation clips come from videos that are in "
        f"the training data too, such as {names}; metrics on them show memorisation. Split by "
        "source video: nasvid data pack VIDEOS OUT --val 0.05"
    )


def _check_shards(session: Session, train: StreamedShards, val: ShardIndex) -> None:
    """Warn if whole shards are in both splits, which is all that is known of streamed ones."""
    shared = [shard for shard in dict.fromkeys(val.shards) if shard in set(train.shards)]
    if shared:
        session.folder.log({"event": "overlap", "shards": len(shared), "of": len(val.shards)})
        session.display.say(
            f"Warning: {len(shared)} of {len(val.shards)} validation shards are training shards "
            f"too, such as {shared[0]}; metrics on them show memorisation"
        )


def check_captions(session: Session) -> None:
    """Check that every evaluator of the recipe takes the captions of the validation clips.

    Raises:
        UserError: one does not.
    """
    recipe = session.recipe
    captions = [clip.caption for clip in session.index("val").clips]
    named = (("search", recipe.search.evaluators), ("front", recipe.front.evaluators))
    for where, sections in named:
        for place, section in enumerate(sections):
            try:
                section.check_captions(captions)
            except UserError as error:
                raise UserError(f"{where}.evaluators[{place}]: {error}") from error


def _check_number(wanted: int, there: int, resolution: Resolution) -> None:
    most = max(AT_LEAST, REPEATED * there)
    if wanted > most:
        raise UserError(
            f"search.clips: {wanted} clips would be evaluated for each architecture, but data.val "
            f"has {there} for {resolution.label}; set it to {most} or less"
        )
