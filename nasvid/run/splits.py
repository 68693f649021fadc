"""Whether a run's validation clips are held out."""

from __future__ import annotations

from nasvid.data.overlap import also_in_training
from nasvid.run.session import Session

NAMED = 3
"""Clips that a warning names."""


def check_splits(session: Session) -> None:
    """Warn if source videos of the validation clips are in the training data as well."""
    val = session.index("val")
    shared = also_in_training(session.index("train"), val)
    if not shared:
        return
    *most, last = [f"'{clip.key}'" for clip in shared[:NAMED]]
    names = f"{', '.join(most)} and {last}" if most else last
    session.folder.log({"event": "overlap", "clips": len(shared), "of": len(val.clips)})
    session.display.say(
        f"Warning: {len(shared)} of {len(val.clips)} validation clips come from videos that are in "
        f"the training data too, such as {names}; what is measured on them is memory. Divide the "
        "source videos: nasvid data pack VIDEOS OUT --val 0.05"
    )
