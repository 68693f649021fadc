"""All streams of random numbers, by name: what each is used for and what it depends on.

Nothing else seeds a generator from the recipe's seed. A stream is a function of the seed and of
where in the run it is used, so no random state has to be saved: a resumed run and every rank draw
the same numbers. Each name maps to the integers that numpy's `SeedSequence` is created from (it
pads a short list with zeros). A new stream must use at least five integers, with a fourth and fifth
that no other stream has; then it coincides with none.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Literal

import numpy as np

if TYPE_CHECKING:
    import torch

Name = Literal[
    "epoch",
    "sample",
    "shards",
    "window",
    "cached cut",
    "resolution",
    "subnets",
    "noise",
    "model",
    "held out",
    "held out shape",
    "start",
    "vae noise",
    "vae colours",
    "proposals",
    "spread",
    "agreement",
    "predicted",
    "digits",
    "footage",
]

_PLACES: dict[Name, Callable[..., tuple[int, ...]]] = {
    # The order of an epoch's clips; where a sample's clip is cut, and what replaces a broken one.
    "epoch": lambda epoch, size: (epoch, size),
    "sample": lambda sample: (sample,),
    # The order of an epoch's shards, if they are streamed, and of the samples of some of them.
    "shards": lambda epoch: (epoch, 0, 0, 5),
    "window": lambda epoch, first: (epoch, first, 0, 6),
    # Where a clip is cut for a cache of latents.
    "cached cut": lambda clip, cut: (clip, cut),
    # A training step: the resolution of a group of ranks; the subnets; timesteps, noise and
    # dropped captions; what models draw themselves, on clips from number `first` of the group on.
    "resolution": lambda step, group: (step, 0, group),
    "subnets": lambda step: (step, 1),
    "noise": lambda step, group: (step, 2, group),
    "model": lambda step, group, first: (step, 3, group, first),
    # Noise of the held-out clips that candidates are evaluated on, by batch, of squares and others.
    "held out": lambda side, batch: (side, batch, 3),
    "held out shape": lambda height, width, frames, batch: (height, batch, 3, 5, width, frames),
    # Architectures whose loss is shown before training, if the supernet starts from a model.
    "start": lambda: (0, 0, 0, 1),
    # A training step of an autoencoder: its posterior's noise; changes to the frames.
    "vae noise": lambda step: (step, 0),
    "vae colours": lambda step: (step, 1),
    # Architectures that are trained alone, by cost; resampling them for intervals.
    "spread": lambda cost: (0, 0, 0, 2, cost),
    "agreement": lambda: (0, 0, 0, 3),
    # A strategy's own draws, besides those of the library that it uses.
    "proposals": lambda: (1,),
    # An evolution against predictions, by the strategy's generation.
    "predicted": lambda generation: (generation, 0, 0, 4),
    # The embedded clips, which were made once.
    "digits": lambda validation, clip: (validation, clip),
    "footage": lambda scene, clip: (scene, clip),
}


def stream(seed: int, name: Name, *where: int) -> np.random.Generator:
    """Return the generator of a stream: `stream(recipe.seed, "noise", step, group)`."""
    return np.random.default_rng([seed, *_PLACES[name](*where)])


def torch_seed(seed: int, name: Name, *where: int) -> int:
    """Return a stream's first number, as the seed of a torch generator."""
    return int(stream(seed, name, *where).integers(2**62))


def torch_stream(seed: int, name: Name, *where: int) -> torch.Generator:
    """Return a stream as a torch generator on the CPU."""
    import torch

    return torch.Generator().manual_seed(torch_seed(seed, name, *where))
