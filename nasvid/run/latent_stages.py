"""The stages of a run in latent space: training a VAE where asked, encoding the clips once."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from nasvid.data.clips import pixel_clips
from nasvid.data.loader import BatchRequest
from nasvid.data.paths import SPLITS, Split
from nasvid.data.shards import ShardIndex
from nasvid.distributed.ranks import Stop
from nasvid.host.device import pick_device
from nasvid.host.display import Display
from nasvid.host.files import write_json
from nasvid.recipe.sections import Recipe
from nasvid.run import stages
from nasvid.run.folder import Run
from nasvid.run.parts import TRAINED_VAE, Parts

PSNR_CLIPS = 16
"""Held-out clips of each resolution that the autoencoder is judged on."""


def vae(run: Run, display: Display, stop: Stop) -> None:
    """Train the VAE on the training clips where the recipe says so; say how good it is."""
    section = run.recipe.vae
    if section is None:
        return
    path = run.folder / "search" / "vae.json"
    if section.train is not None and not (run.folder / TRAINED_VAE / "config.json").exists():
        from nasvid.latents.train import Frames, train_vae

        index = stages.data(run, "train", display)
        device = pick_device(run.recipe.training.device)
        with run.stage("vae"), display.track("vae", section.train.steps, "steps") as tracker:
            train_vae(
                section.train,
                Frames(
                    index=index,
                    sides=tuple(sorted(run.recipe.resolutions)),
                    seed=run.recipe.seed,
                    workers=run.recipe.data.workers,
                ),
                run.folder / TRAINED_VAE,
                channels=section.channels,
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


def latents(run: Run, display: Display, stop: Stop) -> None:
    """Encode the clips of both splits once, where the recipe keeps them.

    Raises:
        UserError: there are latents of another making.
        Interrupted: what was written is kept.
    """
    if run.latents is None:
        return
    parts = Parts.of(run.recipe, run.folder)
    indexes: dict[Split, ShardIndex] = {split: stages.data(run, split, display) for split in SPLITS}
    with run.stage("latents"):
        fill_cache(run.latents, run.recipe, parts, indexes, display, stop)


def fill_cache(
    folder: Path,
    recipe: Recipe,
    parts: Parts,
    indexes: Mapping[Split, ShardIndex],
    display: Display,
    stop: Stop,
) -> None:
    """Encode what is missing of a cache, and say so.

    Raises:
        UserError: there are latents of another making.
        Interrupted: what was written is kept.
    """
    from nasvid.latents.cache import check_identity
    from nasvid.latents.encode import encode, samples

    assert parts.vae is not None
    identity = stages.cache_identity(recipe, parts, indexes)
    if check_identity(folder, identity) and (folder / "complete.json").exists():
        display.say(f"latents: those in {folder} are used again")
        return
    total = samples(identity, indexes)
    with display.track("latents", total, "clips") as tracker:
        counts = encode(
            folder,
            identity,
            indexes,
            parts.vae,
            parts.text,
            workers=recipe.data.workers,
            progress=lambda n: tracker.advance(n=n),
            stop=stop,
        )
    made = sum(each["samples"] for each in counts.values())
    left_out = f", {total - made} left out" if made < total else ""
    display.say(f"latents: {made} clips encoded in {folder}{left_out}")
