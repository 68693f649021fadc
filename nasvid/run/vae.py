"""The stage that trains a VAE, if the recipe asks for it, and measures the one in use."""

from __future__ import annotations

from nasvid.data.clips import pixel_clips
from nasvid.data.loader import BatchRequest
from nasvid.host.files import write_json
from nasvid.recipe.sections import VaeTrainSection
from nasvid.run.session import Session

PSNR_CLIPS = 16
"""Number of held-out clips, per resolution, that the autoencoder is evaluated on."""


def vae(session: Session) -> None:
    """Train the VAE on the training clips if the recipe asks for it; measure its quality."""
    section, folder = session.recipe.vae, session.folder.vae
    if section is None:
        return
    if section.train is not None and not (folder / "config.json").exists():
        _train(session, section.train, section.channels)
    if not (folder / "quality.json").exists():
        _evaluate(session)


def _train(session: Session, section: VaeTrainSection, channels: int) -> None:
    """Train an autoencoder; its folder appears whole, and replaces an older one."""
    from nasvid.latents.train import Frames, train_vae

    recipe = session.recipe
    frames = Frames(
        index=session.index("train"),
        sides=tuple(sorted(recipe.resolutions)),
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
            progress=lambda _, loss: tracker.advance(f"loss {loss:.4f}"),
            stop=session.stop,
        )


def _evaluate(session: Session) -> None:
    """Write `vae/quality.json`: the autoencoder's name and its PSNR on held-out clips."""
    vae = session.components.vae
    assert vae is not None
    held_out = pixel_clips(session.recipe, session.index("val"), "val")
    psnr = {}
    for side in sorted(session.recipe.resolutions):
        request = BatchRequest(number=0, height=side, width=side, first=0, size=PSNR_CLIPS)
        (batch,) = held_out.load([request])
        psnr[side] = round(vae.psnr(batch.video), 2)
    shown = ", ".join(f"{value:.1f} dB at {side} px" for side, value in psnr.items())
    session.display.say(f"vae: {vae.identity}, {shown} on held-out clips")
    write_json(
        session.folder.vae / "quality.json",
        {"name": vae.name, "identity": vae.identity, "psnr": psnr},
    )
