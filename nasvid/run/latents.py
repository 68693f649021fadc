"""The stage that encodes the clips of both splits once, if the recipe caches latents."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from functools import lru_cache
from pathlib import Path

from nasvid.data.paths import SPLITS, Split
from nasvid.data.shards import ShardIndex
from nasvid.distributed.ranks import Stop
from nasvid.errors import Damaged, Interrupted
from nasvid.host.display import Display
from nasvid.host.files import remove
from nasvid.host.lock import locked
from nasvid.host.reading import as_object, read_json
from nasvid.latents.cache import Identity, LatentCache, check_identity
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
    if session.latents == session.folder.latents:
        _remove_others(session, identity)
    with session.folder.logged("latents"):
        fill_cache(session.latents, session.components, indexes, session.display, session.stop)
    session.components.text([""])  # what is left when training drops a caption
    session.components.text.encoder.release()


def _remove_others(session: Session, identity: Identity) -> None:
    """Remove a run's own latents if they have other settings, or it is not known which."""
    folder = session.folder.latents
    try:
        found = read_json(folder / "cache.json", as_object)
    except Damaged as damaged:
        why = f"{damaged.path} is damaged ({damaged.reason}); all"
    else:
        if is_trained(session.folder) or found in (None, identity.to_json()):
            return
        why = f"those in {folder} had other settings and"
    remove(folder)
    session.display.say(f"latents: {why} are made again")


def fill_cache(
    folder: Path,
    components: Components,
    indexes: Mapping[Split, ShardIndex],
    display: Display,
    stop: Stop,
) -> None:
    """Encode what a cache lacks or what is damaged in it, and print how much that was.

    Raises:
        UserError: the cache holds incompatible latents.
        Interrupted: by a signal; what was written is kept.
    """
    identity = components.latent_identity(indexes)
    if _is_whole(folder, identity):
        display.say(f"latents: reusing those in {folder}")
        return
    say_once = lru_cache(display.say)

    def wait(owner: str) -> None:
        say_once(f"latents: waiting for {owner}, which works in {folder}")
        if (signal := stop()) is not None:
            raise Interrupted(signal, "the same command")

    with locked(folder, wait):
        if _is_whole(folder, identity):
            display.say(f"latents: reusing those in {folder}")
            return
        for path in LatentCache(folder, identity).damaged() or ():
            display.say(f"latents: {path} is damaged and made again")
        _encode(folder, components, identity, indexes, display, stop)


def _is_whole(folder: Path, identity: Identity) -> bool:
    return check_identity(folder, identity) and LatentCache(folder, identity).damaged() == []


def _encode(
    folder: Path,
    components: Components,
    identity: Identity,
    indexes: Mapping[Split, ShardIndex],
    display: Display,
    stop: Stop,
) -> None:
    from nasvid.latents.encode import encode, samples

    vae = components.vae
    assert vae is not None
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
    reasons = Counter(skip["reason"] for each in counts.values() for skip in each["skipped"])
    why = ", ".join(f"{number}: {reason}" for reason, number in reasons.most_common())
    left_out = f", {total - made} left out ({why})" if made < total else ""
    display.say(f"latents: {made} clips encoded to {folder}{left_out}")
