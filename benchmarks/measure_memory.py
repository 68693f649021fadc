"""One measurement of `memory.py`: trains a few steps and prints the bytes at their peak.

    python measure_memory.py RECIPE KEY=VALUE...

Prints `PEAK bytes` on the first rank: on a GPU, of the tensors; on a CPU, of the process, above
where it stood before the supernet was made.
"""

from __future__ import annotations

import ctypes
import gc
import sys
from dataclasses import replace
from pathlib import Path

import torch

from nasvid.data.shards import index_shards
from nasvid.distributed.ranks import Ranks, joined
from nasvid.host.device import pick_device
from nasvid.preflight import LoadedRecipe, load_recipe
from nasvid.run.components import Components
from nasvid.training.speed import PROCESS, forget_peak, peak_memory
from nasvid.training.trainer import Outside, Trainer, train

TINY = """
name: tiny
data: {train: embedded:digits, val: embedded:digits, frames: 4, context_len: 4, workers: 0}
resolutions: {16: {batch: 2}}
space:
  name: elastic_unet
  widths: [[8, 16]]
  blocks_per_level: 1
  attention_levels: [0]
  conditioning_width: 16
  head_dim: 8
  group_size: 4
training: {steps: 2}
search: {strategy: {name: random}, budget: 1}
front: {subnets: 1}
"""
"""Trained first, so that libraries' own memory is there before it is looked at."""


def steps(loaded: LoadedRecipe, ranks: Ranks) -> None:
    recipe, components = loaded.recipe, Components(loaded)
    index = index_shards(recipe.data.train, Path(), "train")
    clips = components.clips(index, "train")
    trainer = Trainer.of(recipe, components.supernet(), components.noiser(), ranks)
    outside = Outside(lambda event: None, print, stop=lambda: None)
    train(trainer, clips, None, outside, max_skipped=recipe.data.max_skipped)


def in_use(device: torch.device) -> int:
    """Bytes in use now: of tensors on a GPU, else of this process."""
    gc.collect()
    if device.type == "cuda":
        return torch.cuda.memory_allocated(device)
    ctypes.CDLL(None).malloc_trim(0)
    lines = PROCESS.joinpath("status").read_text().splitlines()
    return 1024 * next(int(line.split()[1]) for line in lines if line.startswith("VmRSS:"))


def main(path: str, *overrides: str) -> None:
    torch.set_num_threads(1)
    loaded = load_recipe(Path(path), overrides=overrides)
    wanted = loaded.recipe.training
    tiny = Path(path).with_name("tiny.yaml")
    tiny.write_text(TINY)
    with joined() as ranks:
        small = load_recipe(tiny)
        training = small.recipe.training.model_copy(
            update={
                "engine": wanted.engine,
                "precision": wanted.precision,
                "device": wanted.device,
            }
        )
        recipe = small.recipe.model_copy(update={"training": training})
        steps(replace(small, recipe=recipe), ranks)
        device = pick_device(wanted.device)
        before = in_use(device)
        forget_peak(device)
        steps(loaded, ranks)
        if ranks.is_rank0:
            print("PEAK", peak_memory(device) - before)


if __name__ == "__main__":
    main(*sys.argv[1:])
