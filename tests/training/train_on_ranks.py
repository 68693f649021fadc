"""Runs that are trained one after another, on any number of ranks."""

from pathlib import Path

import torch

from nasvid.distributed.ranks import Ranks, joined
from nasvid.preflight import load_recipe
from nasvid.run.finetune import finetune as finetune_stage
from nasvid.run.folder import RunFolder, begin
from nasvid.run.rank import rank as rank_stage
from nasvid.run.session import Session
from nasvid.run.train import train as train_stage
from nasvid.training.engines import summing


def train(recipe: Path, out: Path, overrides: list[str], ranks: Ranks) -> None:
    loaded = load_recipe(recipe, overrides=overrides)
    ranks.rank0_does(lambda: begin(out, loaded), never)
    session = Session(RunFolder(out), loaded, ranks=ranks)
    train_stage(session)
    if out.name == "ranked":
        rank_stage(session, n=2)
    finetune_stage(session, ["smallest"])


def never() -> None:
    """No signal asks to stop."""


def train_each(recipe: Path, folder: Path, *named: str) -> None:
    """Train once for each NAME=SETTINGS, as one of the ranks that a launcher has started.

    SETTINGS are recipe overrides joined by `;`. Checkpoints come to FOLDER/NAME; a run that is
    there already resumes. Some architectures of the run `ranked` are then trained alone, and the
    smallest subnet is fine-tuned where the settings say how.
    """
    torch.set_num_threads(1)
    summing.BUCKET = 1 << 12  # so that a tiny net has several
    with joined() as ranks:
        for each in named:
            name, _, settings = each.partition("=")
            overrides = [setting for setting in settings.split(";") if setting]
            train(recipe, folder / name, overrides, ranks)
