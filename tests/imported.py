"""What the processes that tests start have imported already."""

import importlib

import torch

torch.set_num_threads(1)
for name in (
    "deepspeed",
    "nasvid.cli.main",
    "nasvid.preflight",
    "nasvid.run.pipeline",
    "nasvid_spaces.elastic_unet",
    "nasvid_strategies.nni.binding",
    "tests.strategies.nni.searching",
    "tests.training.train_on_ranks",
):
    importlib.import_module(name)
