"""A trainer of a supernet on the CPU, for tests of its steps."""

import torch

from nasvid.diffusion.cached_text import CachedText
from nasvid.diffusion.text import HashEncoder
from nasvid.distributed.ranks import ALONE
from nasvid.objective import Objective
from nasvid.recipe.sections import TrainingSection
from nasvid.sampler import BatchSpec, Resolutions, Sandwich
from nasvid.supernet import Supernet
from nasvid.testing.toy import SHAPES
from nasvid.training.checkpoint import Trained
from nasvid.training.noise import Noiser
from nasvid.training.planner import Planner
from nasvid.training.trainer import Trainer


def trainer_of(supernet: Supernet, objective: Objective, settings: TrainingSection) -> Trainer:
    """Return a trainer by sandwiches, at the resolutions of `SHAPES`, two clips per step.

    Clips must bring embeddings of their captions.
    """
    shapes = {each: BatchSpec(weight=1.0, shape=shape, batch=2) for each, shape in SHAPES.items()}
    text = CachedText(HashEncoder(HashEncoder.Config()), 3, None)
    return Trainer(
        supernet=supernet,
        noiser=Noiser(objective, text, torch.device("cpu")),
        planner=Planner(
            space=supernet.space,
            sampler=Sandwich(Sandwich.Config()),
            resolutions=Resolutions(shapes),
            steps=settings.steps,
            seed=0,
        ),
        trained=Trained.of(supernet.net, settings, ALONE),
        settings=settings,
    )
