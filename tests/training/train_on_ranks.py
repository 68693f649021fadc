"""Trains a recipe's supernet once for each engine that is named, as one of the ranks of a launcher.

    python train_on_ranks.py RECIPE FOLDER NAME=SETTINGS...

SETTINGS are recipe overrides joined by `;`. Checkpoints come to FOLDER/NAME; a run that is there
already resumes. Some architectures of the run `ranked` are then trained alone, and the smallest
subnet is fine-tuned where the settings say how.
"""

import sys
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


def main(recipe: str, folder: str, *named: str) -> None:
    torch.set_num_threads(1)
    summing.BUCKET = 1 << 12  # so that a tiny net has several
    with joined() as ranks:
        for each in named:
            name, _, settings = each.partition("=")
            overrides = [setting for setting in settings.split(";") if setting]
            train(Path(recipe), Path(folder) / name, overrides, ranks)


if __name__ == "__main__":
    main(*sys.argv[1:])
