"""The stage that encodes the captions of both splits once, and the prompts."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import nullcontext
from pathlib import Path

from nasvid.data.paths import SPLITS, Split
from nasvid.errors import Damaged, UserError
from nasvid.host.files import remove, write_json
from nasvid.host.reading import as_object, read_json
from nasvid.host.words import counted
from nasvid.latents.captions import Captions, Place, Shards, encode_captions, missing
from nasvid.run.components import Components
from nasvid.run.folder import is_trained
from nasvid.run.joint import Joint
from nasvid.run.samples import prompts_of
from nasvid.run.session import Session

MADE_WITH = "embeddings.json"


def text(session: Session) -> None:
    """Encode the captions that are not encoded yet, and the prompts; then free the weights.

    Raises:
        UserError: the encoder cannot be loaded, or is not the one that the run was trained with.
        Interrupted: by a signal; what was written is kept.
        RankLost: another rank has ended.
    """
    folder, components, ranks = session.embeddings, session.components, session.ranks
    joint = Joint(session.display, session.stop, ranks)
    if folder is not None:
        ranks.rank0_does(lambda: _check_encoder(session), session.stop)
        if folder == session.folder.text:
            ranks.rank0_does(lambda: _remove_others(session, folder), session.stop)
        with session.folder.logged("text") if ranks.is_rank0 else nullcontext():
            fill_text(folder, components, {split: session.data(split) for split in SPLITS}, joint)
    prompts = ["", *prompts_of(session)]  # the empty one is left when training drops a caption
    ranks.rank0_does(lambda: components.text.keep(prompts), session.stop)
    if folder is not None or session.latents is not None:
        components.text.encoder.release()


def _check_encoder(session: Session) -> None:
    """Note whose embeddings a run is trained on, or check that they still are, wherever they lie.

    Raises:
        UserError: the run was trained on those of another encoder.
    """
    path, wanted = session.folder.path / "data" / "text" / "made_with.json", session.text_identity
    is_known = is_trained(session.folder)
    known = session.made_again(path, lambda value: str(value["text"])) if is_known else None
    if known is None:
        write_json(path, wanted.to_json())
    elif known != wanted.text:
        raise UserError(
            f"{session.folder.path} was trained on embeddings of {known}, not of {wanted.text}; "
            "restore that encoder, or start a new run with --out"
        )


def _remove_others(session: Session, folder: Path) -> None:
    """Remove a run's own embeddings if they have other settings, or it is not known which."""
    try:
        found = read_json(folder / MADE_WITH, as_object)
    except Damaged:
        found = None
    if found == session.text_identity.to_json() or not (folder / "train").exists():
        return
    for split in SPLITS:
        remove(folder / split)
    session.display.say(f"text: those in {folder} had other settings and are made again")


def fill_text(
    folder: Path, components: Components, data: Mapping[Split, Shards], joint: Joint
) -> None:
    """Encode on all ranks what embeddings a folder lacks, and print how many that was.

    Raises:
        UserError, Interrupted, RankLost: as in `encode_captions`.
    """
    captions, display = Captions(data), joint.display

    def left() -> list[Place]:
        return joint.agree(lambda: missing(folder, captions, components.text.made_by))

    if not left():
        display.say(f"text: reusing the embeddings in {folder}")
        return
    with joint.alone_in(folder, "text"):
        identity = components.text_identity(data).to_json()
        joint.agree(lambda: write_json(folder / MADE_WITH, identity))
        places = left()  # none if another process has made them meanwhile
        total = sum(map(captions.size, places))
        with display.track("text", total, "captions") as tracker:
            encode_captions(
                folder,
                captions,
                places,
                components.text,
                progress=lambda n: tracker.advance(n=n),
                stop=joint.stop,
                ranks=joint.ranks,
            )
    made = f"{counted(total, 'caption')} encoded to" if total else "reusing the embeddings in"
    display.say(f"text: {made} {folder}")
