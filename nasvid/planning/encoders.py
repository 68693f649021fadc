"""The memory of the VAE and the text encoder, which are frozen, and when they hold it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch

from nasvid.errors import UserError
from nasvid.recipe.sections import Recipe, VaeSection


@dataclass(frozen=True, slots=True, kw_only=True)
class Encoders:
    """Bytes of weights on each device, in the precision in which they compute.

    vae, text: 0 if there are none on the device; None if unknown. vae_ahead, text_ahead: whether
    clips, or captions, are encoded before training, after which the weights are freed. Otherwise
    they are encoded while steps are made, and the weights stay.
    """

    vae: int | None
    text: int | None
    vae_ahead: bool
    text_ahead: bool

    @property
    def size(self) -> int:
        """What is known of both."""
        return (self.vae or 0) + (self.text or 0)

    @property
    def in_steps(self) -> int:
        """The bytes that they hold while the supernet is trained."""
        known = ((self.vae, self.vae_ahead), (self.text, self.text_ahead))
        return sum(size or 0 for size, ahead in known if not ahead)

    def to_json(self) -> dict[str, Any]:
        """Return plain values."""
        return asdict(self)


def encoders(recipe: Recipe, *, cuda: bool) -> Encoders:
    """Return what a recipe's VAE and text encoder need. cuda: whether devices are GPUs."""
    device = torch.device("cuda" if cuda else "cpu")
    text = recipe.text.make()
    in_latents = recipe.vae is not None and recipe.vae.cache != "none"
    place = "none" if recipe.streams and recipe.data.embeddings == "run" else recipe.data.embeddings
    kept = in_latents or (place != "none" and not text.weightless)
    return Encoders(
        vae=0 if recipe.vae is None else _vae_bytes(recipe.vae),
        text=_known(lambda: text.weight_bytes(device)),
        vae_ahead=in_latents,
        text_ahead=kept,
    )


def _vae_bytes(section: VaeSection) -> int | None:
    from nasvid.latents.train import make_vae as new_vae
    from nasvid.latents.vae import make_vae

    if section.train is not None:
        with torch.device("meta"):
            made = new_vae(section.compression.channels, section.train.widths)
        return sum(tensor.nbytes for tensor in made.state_dict().values())
    if section.path != "embedded" and not Path(section.path).is_dir():
        return None  # on a hub
    return _known(lambda: make_vae(section).weight_bytes())


def _known(size: Callable[[], int | None]) -> int | None:
    """Return a size, or None if what it depends on is not there, as `nasvid run` would say."""
    try:
        return size()
    except UserError:
        return None
