"""The stage that encodes the clips of both splits once, if the recipe caches latents."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from contextlib import nullcontext
from pathlib import Path

from nasvid.data.paths import SPLITS, Split
from nasvid.data.shards import ShardIndex
from nasvid.errors import Damaged
from nasvid.host.files import remove
from nasvid.host.reading import as_object, read_json
from nasvid.latents.cache import Identity, LatentCache, check_identity
from nasvid.run.components import Components
from nasvid.run.folder import is_trained
from nasvid.run.joint import Joint
from nasvid.run.session import Session


def latents(session: Session) -> None:
    """Encode the clips that are not encoded yet, on all ranks.

    Raises:
        UserError: the cache holds incompatible latents.
        Interrupted: by a signal; what was written is kept.
        RankLost: another rank has ended.
    """
    if session.recipe.vae is None:
        return
    identity = session.latent_identity  # checked, even if each step encodes its own
    folder, ranks = session.latents, session.ranks
    if folder is None:
        return
    indexes: dict[Split, ShardIndex] = {split: session.index(split) for split in SPLITS}
    if folder == session.folder.latents:
        ranks.rank0_does(lambda: _remove_others(session, identity), session.stop)
    with session.folder.logged("latents") if ranks.is_rank0 else nullcontext():
        fill_cache(folder, session.components, indexes, Joint(session.display, session.stop, ranks))


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
    folder: Path, components: Components, indexes: Mapping[Split, ShardIndex], joint: Joint
) -> None:
    """Encode on all ranks what a cache lacks or what is damaged in it; print how much that was.

    Raises:
        UserError: the cache holds incompatible latents.
        Interrupted: by a signal; what was written is kept.
        RankLost: another rank has ended.
    """
    identity, display = components.latent_identity(indexes), joint.display
    if joint.agree(lambda: _is_whole(folder, identity)):
        display.say(f"latents: reusing those in {folder}")
        return
    with joint.alone_in(folder, "latents"):
        if joint.agree(lambda: _is_whole(folder, identity)):
            display.say(f"latents: reusing those in {folder}")
            return
        for path in joint.agree(lambda: LatentCache(folder, identity).damaged()) or ():
            display.say(f"latents: {path} is damaged and made again")
        _encode(folder, components, identity, indexes, joint)


def _is_whole(folder: Path, identity: Identity) -> bool:
    return check_identity(folder, identity) and LatentCache(folder, identity).damaged() == []


def _encode(
    folder: Path,
    components: Components,
    identity: Identity,
    indexes: Mapping[Split, ShardIndex],
    joint: Joint,
) -> None:
    from nasvid.latents.encode import Encoding, encode

    vae = components.vae
    assert vae is not None
    encoding = Encoding(
        folder=folder,
        identity=identity,
        indexes=indexes,
        vae=vae,
        text=components.text,
        workers=components.recipe.data.workers,
    )
    total = encoding.samples
    with joint.display.track("latents", total, "clips") as tracker:
        counts = encode(
            encoding,
            progress=lambda n: tracker.advance(n=n),
            stop=joint.stop,
            ranks=joint.ranks,
        )
    made = sum(each["samples"] for each in counts.values())
    reasons = Counter(skip["reason"] for each in counts.values() for skip in each["skipped"])
    why = ", ".join(f"{number}: {reason}" for reason, number in reasons.most_common())
    left_out = f", {total - made} left out ({why})" if made < total else ""
    joint.display.say(f"latents: {made} clips encoded to {folder}{left_out}")
