"""Judging the loss of a candidate nobody has seen yet, over the bare forward passes it takes.

    python benchmarks/evaluation.py

The bare forward runs the extracted model on the same batches. The difference is building the
subnet's module and installing its views.
"""

from __future__ import annotations

import time
from pathlib import Path

import numpy as np
import torch
from paired import machine, paired

from nasvid.data.shards import index_shards
from nasvid.host.display import Display
from nasvid.metrics.loss import DenoisingLoss
from nasvid.preflight import load_recipe
from nasvid.run.components import Components
from nasvid.run.held_out import held_out, make_context
from nasvid.supernet import Supernet

RECIPE = Path(__file__).parents[1] / "recipes" / "sned_pixel.yaml"


@torch.no_grad()
def main() -> None:
    torch.set_num_threads(1)
    print(machine())
    loaded = load_recipe(RECIPE, scale="cpu", overrides=())
    recipe, components = loaded.recipe, Components(loaded)
    supernet = Supernet(components.space)
    supernet.net.eval()
    index = index_shards("embedded", Path(), "val")
    clips = held_out(components, components.clips(index, "val"))
    context = make_context(components, supernet, clips, Display())
    evaluator = DenoisingLoss(DenoisingLoss.Config(), context)
    rng = np.random.default_rng(0)
    space = components.space
    shape = components.shapes[max(components.shapes)]
    archs = [space.sample(rng, within={"macs": (0.3, 0.7)}, shape=shape) for _ in range(30)]
    models = [supernet.extract(arch) for arch in archs]
    unseen, bare = iter(archs), iter(models)

    def forward() -> None:
        model = next(bare)
        for batches in context.batches.values():
            for noisy in batches:
                components.objective.loss(space.denoise(model, noisy.inputs), noisy).item()

    result = paired(
        lambda: evaluator.evaluate([next(unseen)]), forward, rounds=28, clock=time.process_time
    )
    print(f"judging over bare forward, {recipe.search.clips} clips a resolution: {result}")


if __name__ == "__main__":
    main()
