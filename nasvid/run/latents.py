"""The stage that encodes the clips of both splits once, if the recipe caches latents."""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from pathlib import Path

from nasvid.data.paths import SPLITS, Split
from nasvid.data.shards import ShardIndex
from nasvid.distributed.ranks import Stop
from nasvid.host.display import Display
from nasvid.latents.cache import Identity, check_identity, made_with
from nasvid.run.components import Components
from nasvid.run.folder import is_trained
from nasvid.run.session import Session


def latents(session: Session) -> None:
    """Encode the clips that are not encoded yet.

    Raises:
        UserError: the cache holds incompatible latents.
        Interrupted: by a signal; what was written is kept.
    """
    if session.recipe.vae is None:
        return
    identity = session.latent_identity  # checked, even if each step encodes its own
    if session.latents is None:
        return
    indexes: dict[Split, ShardIndex] = {split: session.index(split) for split in SPLITS}
    if not is_trained(session.folder) and session.latents == session.folder.latents:
        _remove_others(session.latents, identity, session.display)
    with session.folder.logged("latents"):
        fill_cache(session.latents, session.components, indexes, session.display, session.stop)


def _remove_others(folder: Path, identity: Identity, display: Display) -> None:
    """Remove a run's own latents if they were made with other settings."""
    path = folder / "cache.json"
    if path.exists() and made_with(path) != identity.to_json():
        shutil.rmtree(folder)
        display.say(f"latents: those in {folder} had other settings and are made again")


def fill_cache(
    folder: Path,
    components: Components,
    indexes: Mapping[Split, ShardIndex],
    display: Display,
    stop: Stop,
) -> None:
    """Encode what a cache lacks, and print how much that was.

    Raises:
        UserError: the cache holds incompatible latents.
        Interrupted: by a signal; what was written is kept.
    """
    from nasvid.latents.encode import encode, samples

    vae = components.vae
    assert vae is not None
    identity = components.latent_identity(indexes)
    if check_identity(folder, identity) and (folder / "complete.json").exists():
        display.say(f"latents: reusing those in {folder}")
        return
    total = samples(identity, indexes)
    with display.track("latents", total, "clips") as tracker:
        counts = encode(
            folder,
            identity,
            indexes,
            vae,
            components.text,
            workers=components.recipe.data.workers,
            progress=lambda n: tracker.advance(n=n),
            stop=stop,
        )
    made = sum(each["samples"] for each in counts.values())
    left_out = f", {total - made} left out" if made < total else ""
    display.say(f"latents: {made} clips encoded to {folder}{left_out}")
