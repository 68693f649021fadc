"""The parts that a recipe names, made once: space, text, objective, device."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from nasvid.device import autocast_dtype, pick_device
from nasvid.diffusion.objective import Objective
from nasvid.diffusion.text import CachedText
from nasvid.recipe import Recipe
from nasvid.space import SearchSpace
from nasvid.supernet import Supernet
from nasvid.training.plan import Planner
from nasvid.video import VideoShape

if TYPE_CHECKING:
    from nasvid.latents.vae import Vae


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
    def of(cls, recipe: Recipe, text_cache: Path | None) -> Parts:
        """Make the parts; embeddings are kept in the folder `text_cache`."""
        device = pick_device(recipe.training.device)
        return cls(
            space=recipe.make_space(),
            text=CachedText(recipe.text.make(), recipe.data.context_len, text_cache),
            objective=Objective(recipe.objective),
            shapes=recipe.shapes(),
            device=device,
            autocast=autocast_dtype(recipe.training.precision, device),
        )

    def supernet(self, seed: int) -> Supernet:
        """Make the supernet on the device, its weights those of the seed."""
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            supernet = Supernet(self.space)
        supernet.net.to(self.device)
        return supernet

    def planner(self, recipe: Recipe) -> Planner:
        """Make the planner of the recipe's training steps."""
        return Planner(
            self.space,
            recipe.sampler.make(),
            recipe.resolutions,
            self.shapes,
            steps=recipe.training.steps,
            seed=recipe.seed,
        )
