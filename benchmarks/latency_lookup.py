"""Looking 10,000 architectures up in a latency table, over their analytic costs.

    nasvid latency build recipes/sned_pixel.yaml --scale cpu --out table.json
    python benchmarks/latency_lookup.py table.json

Goal: under 20 microseconds each.
"""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
from paired import machine, paired

from nasvid.latency.table import open_table
from nasvid.preflight import load_recipe

RECIPE = Path(__file__).parents[1] / "recipes" / "sned_pixel.yaml"
N = 10_000


def main(table: str) -> None:
    print(machine())
    loaded = load_recipe(RECIPE, scale="cpu")
    space, shapes = loaded.space, loaded.recipe.shapes()
    lookup = open_table(Path(table), space, shapes)
    genomes = space.random_genomes(np.random.default_rng(0), N)
    side = max(shapes)
    result = paired(
        lambda: lookup.milliseconds(genomes, side),
        lambda: space.costs(genomes, shapes[side]),
        rounds=10,
    )
    print(f"{N} architectures looked up, over costs by formula: {result}")
    print(f"{1e6 * result.first / N:.2f} microseconds for one")


if __name__ == "__main__":
    main(*sys.argv[1:])
