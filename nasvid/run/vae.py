"""The stage that trains a VAE, if the recipe asks for it, and measures the one in use."""

from __future__ import annotations

from nasvid.data.clips import pixel_clips
from nasvid.data.loader import BatchRequest
from nasvid.errors import Damaged
from nasvid.host.files import write_json
from nasvid.host.reading import as_object, check_sums
from nasvid.latents.clips import at_once
from nasvid.recipe.sections import VaeTrainSection
from nasvid.run.session import Session

PSNR_CLIPS = 16
"""Held-out clips, per resolution, that the autoencoder is evaluated on; fewer large ones."""


def vae(session: Session) -> None:
    """Train the VAE on the training clips if the recipe asks for it; measure its quality."""
    section = session.recipe.vae
    if section is None:
        return
    if section.train is not None and not _is_trained(session):
        _train(session, section.train, section.compression.channels)
    if not _is_measured(session):
        _evaluate(session)


def _is_trained(session: Session) -> bool:
    """Return whether the run's own VAE is there and intact."""
    folder = session.folder.vae
    if not folder.exists():
        return False
    try:
        check_sums(folder)
    except Damaged as damaged:
        session.display.say(f"vae: {damaged.path} is damaged ({damaged.reason}); training again")
        return False
    return True


def _is_measured(session: Session) -> bool:
    path = session.folder.vae / "quality.json"
    return session.made_again(path, lambda value: as_object(value["psnr"])) is not None


def _train(session: Session, section: VaeTrainSection, channels: int) -> None:
    """Train an autoencoder; its folder appears whole, and replaces an older one."""
    from nasvid.latents.train import Frames, train_vae

    recipe = session.recipe
    frames = Frames(
        index=session.data("train"),
        resolutions=tuple(sorted(recipe.resolutions)),
        seed=recipe.seed,
        workers=recipe.data.workers,
    )
    with (
        session.folder.logged("vae"),
        session.display.track("vae", section.steps, "steps") as tracker,
    ):
        train_vae(
            section,
            frames,
            session.folder.vae,
            channels=channels,
            device=session.components.device,
            report=session.display.say,
            progress=lambda _, loss: tracker.advance(f"loss {loss:.4f}"),
            stop=session.stop,
        )


def _evaluate(session: Session) -> None:
    """Write `vae/quality.json`: the autoencoder's name and its PSNR on held-out clips."""
    vae = session.components.vae
    assert vae is not None
    held_out = pixel_clips(session.recipe, session.index("val"), "val")
    psnr = {}
    for resolution in sorted(session.recipe.resolutions):
        size = at_once(PSNR_CLIPS, session.recipe.data.frames, resolution)
        request = BatchRequest(number=0, resolution=resolution, first=0, size=size)
        (batch,) = held_out.load([request])
        psnr[str(resolution)] = round(vae.psnr(batch.video), 2)
    shown = ", ".join(f"{value:.1f} dB at {resolution} px" for resolution, value in psnr.items())
    session.display.say(f"vae: {vae.identity}, {shown} on held-out clips")
    write_json(
        session.folder.vae / "quality.json",
        {
            "name": vae.name,
            "identity": vae.identity,
            "compression": str(vae.compression),
            "psnr": psnr,
        },
    )
