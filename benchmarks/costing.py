"""Analytic costs of 10,000 architectures of the paper's space, over counting one on `meta`.

    python benchmarks/costing.py

Goal: 10,000 in under 0.1 s.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
from paired import machine, paired

from nasvid.costs import count, dummy_input
from nasvid.preflight import load_recipe
from nasvid.shapes import Resolution
from nasvid.space import SearchSpace

RECIPE = Path(__file__).parents[1] / "recipes" / "sned_pixel.yaml"
N = 10_000


def main() -> None:
    print(machine())
    recipe = load_recipe(RECIPE, scale="paper", overrides=()).recipe
    space: SearchSpace = recipe.make_space()
    shape = recipe.shapes()[Resolution.square(64)]
    genomes = space.random_genomes(np.random.default_rng(0), N)
    inputs = dummy_input(shape, space.domain)
    result = paired(
        lambda: space.costs(genomes, shape),
        lambda: count(lambda: space.build(space.largest), lambda m: space.denoise(m, inputs)),
        rounds=5,
        warm_up=1,
    )
    print(f"{N} architectures by formula over 1 counted: {result}")


if __name__ == "__main__":
    main()
