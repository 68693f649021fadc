"""What the processes that tests start have imported already."""

import importlib

import torch

from nasvid.training.engines import deepspeed_updater

torch.set_num_threads(1)
for name in (
    "nasvid.cli.main",
    "nasvid.preflight",
    "nasvid.run.pipeline",
    "nasvid_spaces.elastic_unet",
    "nasvid_strategies.nni.binding",
    "tests.strategies.nni.searching",
    "tests.training.train_on_ranks",
):
    importlib.import_module(name)
deepspeed_updater._deepspeed()
