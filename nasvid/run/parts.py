"""The parts that a recipe names, made once: space, text, VAE, objective, device."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from nasvid.diffusion.text import CachedText
from nasvid.errors import UserError
from nasvid.host.device import autocast_dtype, pick_device
from nasvid.objective import Objective
from nasvid.recipe.sections import Recipe, VaeSection
from nasvid.shapes import VideoShape
from nasvid.space import SearchSpace
from nasvid.supernet import Supernet
from nasvid.training.noise import Noiser

if TYPE_CHECKING:
    from nasvid.latents.vae import Vae

TRAINED_VAE = "vae"
"""Folder of the VAE that a run has trained, inside the run's."""


@dataclass(frozen=True, slots=True)
class Parts:
    """What training, search and sampling share."""

    space: SearchSpace
    text: CachedText
    objective: Objective
    shapes: Mapping[int, VideoShape]
    device: torch.device
    autocast: torch.dtype | None
    vae: Vae | None = None

    @classmethod
    def of(cls, recipe: Recipe, folder: Path | None) -> Parts:
        """Make the parts.

        folder: the run's, which keeps text embeddings and the VAE that it has trained; None keeps
        nothing.
        """
        device = pick_device(recipe.training.device)
        text_cache = None if folder is None else folder / "text"
        return cls(
            space=recipe.make_space(),
            text=CachedText(recipe.text.make(), recipe.data.context_len, text_cache),
            objective=recipe.objective.make(),
            shapes=recipe.shapes(),
            device=device,
            autocast=autocast_dtype(recipe.training.precision, device),
            vae=None if recipe.vae is None else _vae(recipe.vae, folder, device),
        )

    def noiser(self) -> Noiser:
        """Return what corrupts clips and puts them on the device."""
        return Noiser(self.objective, self.text, self.device)

    def supernet(self, seed: int) -> Supernet:
        """Make the supernet on the device, its weights those of the seed."""
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            supernet = Supernet(self.space)
        supernet.net.to(self.device)
        return supernet


def _vae(section: VaeSection, folder: Path | None, device: torch.device) -> Vae:
    from nasvid.latents.vae import Vae

    if section.train is not None:
        if folder is None or not (folder / TRAINED_VAE / "config.json").exists():
            raise UserError(f"the VAE of {folder} is not trained yet: nasvid run does that first")
        trained = {"path": str(folder / TRAINED_VAE), "subfolder": "", "train": None}
        section = section.model_copy(update=trained)
    return Vae.load(section, device)
