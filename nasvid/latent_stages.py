"""The stages of a run in latent space: training a VAE where asked, encoding the clips once."""

from __future__ import annotations

from collections.abc import Mapping
from typing import get_args

from nasvid import stages
from nasvid.clips import pixel_clips
from nasvid.data.loader import BatchRequest
from nasvid.data.paths import Split
from nasvid.data.shards import ShardIndex
from nasvid.device import pick_device
from nasvid.display import Display
from nasvid.files import write_json
from nasvid.parts import TRAINED_VAE, Parts
from nasvid.run import Run

PSNR_CLIPS = 16
"""Held-out clips of each resolution that the autoencoder is judged on."""


def vae(run: Run, display: Display, stop: stages.Stop) -> None:
    """Train the VAE on the training clips where the recipe says so; say how good it is."""
    section = run.recipe.vae
    if section is None:
        return
    path = run.folder / "search" / "vae.json"
    if section.train is not None and not (run.folder / TRAINED_VAE / "config.json").exists():
        from nasvid.latents.train import train_vae

        index = stages.data(run, "train", display)
        device = pick_device(run.recipe.training.device)
        with run.stage("vae"), display.track("vae", section.train.steps, "steps") as tracker:
            train_vae(
                section.train,
                index,
                run.folder / TRAINED_VAE,
                channels=section.channels,
                sides=tuple(sorted(run.recipe.resolutions)),
                seed=run.recipe.seed,
                workers=run.recipe.data.workers,
                device=device,
                progress=lambda _, loss: tracker.advance(f"loss {loss:.4f}"),
                stop=stop,
            )
        path.unlink(missing_ok=True)
    if not path.exists():
        _judge_vae(run, display)


def _judge_vae(run: Run, display: Display) -> None:
    """Write `search/vae.json`: the autoencoder's name and its PSNR on held-out clips."""
    parts = Parts.of(run.recipe, run.folder)
    assert parts.vae is not None
    held_out = pixel_clips(run.recipe, stages.data(run, "val", display), "val")
    psnr = {}
    for side in sorted(run.recipe.resolutions):
        request = BatchRequest(number=0, height=side, width=side, first=0, size=PSNR_CLIPS)
        (batch,) = held_out.load([request])
        psnr[side] = round(parts.vae.psnr(batch.video), 2)
    shown = ", ".join(f"{value:.1f} dB at {side} px" for side, value in psnr.items())
    display.say(f"vae: {parts.vae.identity}, {shown} on held-out clips")
    write_json(
        run.folder / "search" / "vae.json",
        {"name": parts.vae.name, "identity": parts.vae.identity, "psnr": psnr},
    )


def latents(run: Run, display: Display, stop: stages.Stop) -> None:
    """Encode the clips of both splits once, where the recipe keeps them.

    Raises:
        UserError: there are latents of another making.
        Interrupted: what was written is kept.
    """
    if run.latents is None:
        return
    from nasvid.latents.encode import encode, samples

    parts = Parts.of(run.recipe, run.folder)
    assert parts.vae is not None
    identity = stages.cache_identity(run, parts, display)
    from nasvid.latents.cache import check_identity

    if check_identity(run.latents, identity) and (run.latents / "complete.json").exists():
        display.say(f"latents: those in {run.latents} are used again")
        return
    splits: Mapping[Split, ShardIndex] = {
        split: stages.data(run, split, display) for split in get_args(Split)
    }
    total = samples(identity, splits)
    with run.stage("latents"), display.track("latents", total, "clips") as tracker:
        encode(
            run.latents,
            identity,
            splits,
            parts.vae,
            parts.text,
            workers=run.recipe.data.workers,
            progress=lambda n: tracker.advance(n=n),
            stop=stop,
        )
    display.say(f"latents: {total} clips encoded in {run.latents}")
