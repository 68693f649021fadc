"""The stages of a run in latent space: training a VAE where asked, encoding the clips once."""

from __future__ import annotations

from nasvid.display import Display
from nasvid.run import Run
from nasvid.stages import Stop


def vae(run: Run, display: Display, stop: Stop) -> None:
    """Train the VAE on the training clips, where the recipe says so."""


def latents(run: Run, display: Display, stop: Stop) -> None:
    """Encode the clips of both splits once, where the recipe keeps them."""
